"""Staging: calls between their many threads and the sender, and the rows that they make.

* ``buffer``: the staging buffer, which ``log()`` appends to.
* ``lossy_queue``: the queue below the buffer, without locks.
* ``attachment``: values that join the row of the next call, such as a model's statistics.
* ``resolving``: replaces values on a device by their numbers.
* ``rows``: the step that each call means, and the calls that make one row.
* ``items``: drafts of tables, images, artifacts and histograms; ``row_items``: the histograms of a row.
* ``sources``: the bytes of an item's contents.
"""

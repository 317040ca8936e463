"""Media: tables, images and artifacts, from what a caller has to items of the stream.

* ``drafts``: makes an item's draft of each kind of call.
* ``images``: a path, bytes, a picture, a figure or an array to an image file; ``png`` writes PNG by hand.
* ``tables``: rows or a data frame to one JSON document.
* ``artifacts``: files and directories to the contents of one item.
"""

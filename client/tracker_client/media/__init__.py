"""Media: converts tables, images and artifacts to items of the stream.

* ``drafts``: makes the draft of an item for each kind of call.
* ``images``: converts a path, bytes, a picture, a figure or an array to an image file.
* ``pictures`` and ``png``: encode PIL's images and arrays as PNG.
* ``tables``: converts rows or a data frame to one JSON document.
* ``artifacts``: reads files and directories as the contents of one item, without ``product_files``.
"""

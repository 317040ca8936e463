"""Wire: turns protobuf messages into plain values, checked, and plain values into messages.

The rest of the daemon acts on the values; only this package knows how a batch lies in its message.

* ``batches``: a whole batch, in both directions.
* ``rows``: blocks of rows and their metric names. ``items``: items with their contents.
* ``contributions``: cells and progress of a node's ranks.
* ``node_batches``: divides the output of a node's tick into batches below the size limit.
* ``documents``: checks JSON documents.
* ``hello``: checks a Hello before anyone acts on it.
"""

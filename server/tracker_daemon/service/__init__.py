"""Service: a running daemon's work, done by the parts that the composition root has built.

* ``calls``: answers the calls of the server. ``backpressure``: makes clients wait for commits.
* ``ticks``: passes the recorder's reports to the event loop.
* ``care``: periodic work, and the end of a daemon that no rank needs.
* ``stop_request``: why and how the daemon is to end. ``shutdown``: ends it.
"""

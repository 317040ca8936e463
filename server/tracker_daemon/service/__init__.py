"""Service: a running daemon's work, done by the parts that the composition root has built.

* ``calls``: answers the calls of the server. ``backpressure``: makes clients wait for commits.
* ``reporter``: collects the status document.
* ``ticks``: passes the recorder's reports to the event loop.
* ``care``: periodic work, and the end of a daemon that no rank needs.
* ``rest``: what a script's own daemon does before it rests.
* ``stop_request``: the request that the daemon ends, with its reason and its limits. ``shutdown``: ends it.
"""

"""``endpoint="inprocess"``: backends in the script's own process, without a daemon.

This is the only package of the client that imports the daemon's package, and only if a script asks for it.

* ``opening``: begins a run in each of the named backends.
* ``loading``: imports the built-in classes, or raises an error that names the missing extra.
"""

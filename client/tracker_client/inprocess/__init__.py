"""``endpoint="inprocess"``: backends in the script's own process, and no daemon.

This package, and no other of the client, imports the daemon's package, and only when a script asks for it.

* ``opening``: begins a run in each of the named backends.
* ``loading``: imports the built-in classes, or says which extra is missing.
"""

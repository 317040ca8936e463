"""A backend in a process of its own: what hangs or crashes there touches nothing else.

* ``process``: the daemon's side: starts, feeds, watches and replaces the process.
* ``main``: the process itself, ``python -m tracker_daemon.backends.child.main``.
* ``pipe``: the messages between the two.
* ``lock``: held by the process for its run and backend, awaited by its successor.
* ``heartbeat``: shows the daemon during a long step that the process is alive.
"""

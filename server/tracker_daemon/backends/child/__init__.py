"""A backend in a process of its own: what hangs or crashes there touches nothing else.

* ``process``: the daemon's side: starts, feeds, watches and replaces the process.
* ``main``: the process itself, ``python -m tracker_daemon.backends.child.main``.
* ``pipe``: the messages between the two.
* ``lock``: held by the process for its run and backend, awaited by its successor.
* ``signs_of_life``: reports progress during a long step.
"""

"""A backend in a process of its own: a crash or a hang there affects nothing else.

* ``process``: the daemon's side: starts, calls, watches and replaces the process.
* ``main``: the process itself.
* ``messages``: the messages between the two; ``pipe``: the socket that carries them.
* ``heartbeat``: shows the daemon during a long step that the process is alive.
"""

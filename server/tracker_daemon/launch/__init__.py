"""Launch: starts and attends daemons and commands.

* ``launcher``: runs a command with a daemon; ``joining``: runs one with another node's daemon (``--join``).
* ``command_group``: the user's command; ``daemon_process``, ``attended_daemon``: the daemon beside it.
* ``embedded``: the daemon that rank 0 starts; ``detached``: one in the background.
* ``syncing``: delivers what an ended daemon could not.
* ``finding``: waits for another node's daemon; ``node_rank``: which node this is.
* ``environment``: the variables for a command's ranks; ``signals``: signals as values.
* ``log_tail``: the end of a daemon's log.
"""

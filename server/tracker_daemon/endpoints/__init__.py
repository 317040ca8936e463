"""Endpoints: where the daemon is, and how others reach it.

* ``host_addresses``: this host's addresses, in the order in which clients try them.
* ``certificate``: the TLS certificate, the user's or one made here.
* ``binding``: binds the server to its addresses.
* ``endpoint_file``: the file by which clients and the command line find a daemon; ``announcement`` writes
  it when the daemon is ready, and removes it at the end.
* ``locate``: the daemon that the command line means.
* ``control``: calls to a running daemon: status, stop.
"""

"""Endpoints: the addresses of the daemon, and the start of a daemon if none is configured.

* ``endpoint``: a fixed address, or an endpoint file that is read again at each connection.
* ``address_choice``: the order in which a daemon's addresses are tried.
* ``embedded``: the endpoint of a launch that starts its own daemon.
* ``embedded_daemon``: that daemon, as a child process of rank 0.
"""

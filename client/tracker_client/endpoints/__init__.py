"""Endpoints: where the daemon is, and how to start one where there is none.

* ``endpoint``: a fixed address, or an endpoint file that is read again at each connection.
* ``address_choice``: the order in which a daemon's addresses are tried.
* ``embedded``: the daemon of a launch for which no endpoint is configured.
* ``embedded_daemon``: that daemon as a child process of rank 0.
"""

"""Lifecycle: when the daemon itself ends, and what it still does then.

* ``idle``: when a daemon ends by itself.
* ``shutdown_grace``: lets ranks finish after SIGTERM. ``grace``: how a job's grace is divided.
* ``drain``: delivers the rest at the daemon's end.
* ``service_manager``: notifies systemd.
"""

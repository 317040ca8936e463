"""Lifecycle: when deliveries, runs and the daemon itself begin and end.

* ``run_delivery``: opens a run's pumps when there is something to deliver.
* ``run_endings``: ends runs whose ranks are gone, or whose launch has ended.
* ``launch_outcome``: the exit status of a launch's command, from ``run`` to the daemon.
* ``shutdown_grace``: lets ranks finish after SIGTERM; ``grace``: how a job's grace is divided.
* ``drain``: delivers the rest at the daemon's end. ``idle``: when a daemon ends by itself.
* ``content_care``: removes contents that nothing needs any more.
* ``service_manager``: notifies systemd.
"""

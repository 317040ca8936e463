"""Delivery: a pump and a cursor for each run and backend. Only delivery retries, pauses and sets aside.

* ``run_delivery``: opens a run's pumps when there is something to deliver.
* ``run_directories``: claims the runs' directories, and closes those of ended runs.
* ``pump_set``: all pumps of a daemon.
* ``pump``: the thread that delivers one run's outbox to one backend: one loop, one step for each state.
* ``states``: a pump's states, and which one follows which. Pure.
* ``lane``: reads, delivers, sets aside and commits, as the pump asks for it.
* ``progress``: how far a pump is with its notifications. ``cursor``: how far a lane is in the outbox. Pure.
* ``health``: the state of one backend of one run, for the status.
* ``thinning``, ``thinned_backend``: fewer values for slower backends.
* ``locations``: shows where a run is recorded, in the log and to a person.
"""

"""Delivery: for each run and backend a pump and a cursor. It alone retries, pauses and sets aside.

* ``pump``: the thread that moves one run's outbox into one backend; ``pump_set``: all of them.
* ``cursor``: how far one backend is in one outbox. Pure.
* ``thinning``, ``thinned_backend``: fewer values for slower backends.
* ``health``: the state of one backend of one run; ``locations``: where it records, for a person.
"""

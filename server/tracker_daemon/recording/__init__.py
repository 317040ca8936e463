"""Recording: one thread applies events to folds and commits them with the folds' output.

* ``recorder``: that thread.
* ``journal_calls``: work on the journal for other threads.
* ``events``: the payload of each event, and its effect on a fold.
* ``live_run``: a run in memory, with its fold.
* ``outbox_entries``: the records of a tick as entries of the outbox.
* ``replay``: snapshots of a fold, and its state after a restart.
* ``run_end``: the time and the status of a run's end.
"""

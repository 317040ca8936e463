"""MLflow: one MLflow run for each run, by explicit ids.

* ``child``: the backend as the daemon starts it, in a process for each lane.
* ``backend``: metrics and params; ``items``: the lane for files.
* ``connection``: the tracking store, and what its errors mean; ``authentication``: who we are there.
* ``find``: finds or creates the MLflow run; ``open_run``: writes into it.
* ``description``: tags and params of the training script.
* ``names``, ``requests``, ``narrowing``: the names, sizes and items that MLflow accepts.
* ``summaries``: other axes, and summaries at the run's end.
"""

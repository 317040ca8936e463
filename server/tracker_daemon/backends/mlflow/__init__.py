"""MLflow: one MLflow run for each run, by explicit ids.

* ``child``: the backend as the daemon starts it, in a process for each lane.
* ``backend``: metrics and params; ``items``: the lane for files.
* ``connection``: the tracking store, and what its errors mean; ``authentication``: who we are there.
* ``run_lookup``: finds or creates the MLflow run; ``run_writer``: writes into it.
* ``description``: tags and params of the training script.
* ``names``, ``requests``: the names and the sizes of requests that MLflow accepts.
* ``bisection``: sends a refused request again in halves, to find the refused items.
* ``metric_display``: other axes, and summaries at the run's end.
"""

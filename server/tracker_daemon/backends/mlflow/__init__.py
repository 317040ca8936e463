"""MLflow: one MLflow run for each run, found by an explicit id.

* ``child``: the backend as the daemon starts it, in a process for each lane.
* ``backend``: metrics and params; ``items``: the lane for files.
* ``store_address``: the tracking store; ``connection``: requests to it, and the meaning of its errors.
* ``local_database``: prepares a database that is used without a server.
* ``authentication``: tokens, keys and certificates.
* ``run_lookup``: finds or creates the MLflow run; ``run_writer``: writes into it.
* ``description``: tags and params that describe the training script.
* ``names``, ``requests``: the names and the sizes of requests that MLflow accepts.
* ``bisection``: sends a refused request again in halves, to find the refused items.
* ``metric_display``: other axes, and summaries at the run's end.
"""

"""W&B: one W&B run for each run, online, offline, shared or disabled.

* ``child``: the backend as the daemon starts it, in its own process.
* ``backend``: records into one or more sessions; ``session``: one ``wandb.init``.
* ``segment``: the directory of one session; ``log_file``: reads the ``.wandb`` file in it.
* ``settings``: a run's description as arguments of ``wandb.init``.
* ``rows``: records to rows of the history; ``metrics``: axes and summaries of single metrics.
* ``items``, ``artifacts``: tables, images and artifacts.
"""

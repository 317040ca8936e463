"""W&B: one W&B run for each run, online, offline, shared or disabled.

* ``child``: the backend as the daemon starts it, in its own process.
* ``backend``: records into one or more sessions; ``session``: one ``wandb.init``.
* ``session_directory``: the directory of one session; ``transaction_log``: reads the ``.wandb`` file in it.
* ``init_arguments``: a run's description as arguments of ``wandb.init``.
* ``rows``: records to rows of the history; ``metric_definitions``: axes and summaries of single metrics.
* ``items``, ``artifacts``: tables, images and artifacts.
"""

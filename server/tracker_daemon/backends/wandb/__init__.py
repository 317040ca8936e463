"""W&B: one W&B run for each run, online, offline, shared or disabled.

* ``child``: the backend as the daemon starts it, in its own process.
* ``backend``: records a run in one or more sessions; ``session``: one ``wandb.init``.
* ``init_arguments``: turns a run's description into arguments of ``wandb.init``.
* ``changes``: decodes entries; ``rows``: turns records into rows of the history.
* ``metric_definitions``: axes and summaries of single metrics.
* ``items``: tables and images; ``artifacts``: artifacts, which are kept until they are uploaded.
* ``session_directory``: the SDK's directory of one session; ``transaction_log``: reads the ``.wandb`` file
in it.
* ``replay``: logs the rows of an earlier session again.
* ``upload_watch``: reads the SDK's notes on its upload; ``core_process``: the SDK's own process.
"""

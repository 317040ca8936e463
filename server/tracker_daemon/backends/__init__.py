"""Backends: the destinations of a run's records.

* ``base``: the interface that delivery uses.
* ``registry``: backends by name, built in or installed.
* ``decoding``: an outbox entry and a backend's own state, decoded.
* ``column_names``: columns that no two metrics share.
* ``item_files``, ``item_names``: tables, images and artifacts as files.
* ``memory``: keeps records in the process, for tests.
* ``root``: the root as a backend of a node's daemon.

A package for each kind: ``csv``, ``mlflow``, ``wandb``; ``child`` runs one in a process of its own;
``third_party`` calls classes of other packages and of training scripts.
"""

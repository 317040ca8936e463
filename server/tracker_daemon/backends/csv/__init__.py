"""CSV: ``metrics.csv``, ``config.json`` and the files of items, in the run's directory.

* ``backend``: records and configuration; each record once.
* ``items``: the lane for files: tables, images and artifacts.
* ``metrics_file``: ``metrics.csv`` as an append-only file that agrees with a committed position.
* ``format``: turns record blocks into text. Pure.
* ``config_json``, ``config_history``: the configuration and its changes.
"""

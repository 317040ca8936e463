"""Ingest: the connections of ranks and nodes.

* ``server``: the gRPC server: token, streams, uploads and calls of the command line.
* ``session``: one connection of one stream, from Hello to the last acknowledgement.
* ``admission_commit``: journals an admission before its Welcome.
* ``nodes``: connections of nodes' daemons at the root, and the ranks behind them.
* ``uploads``: contents on their way from a client into the store.
"""

"""Runs played without processes, as a sequence of events.

- ``scenario``: a run in one daemon: ranks log, ticks pass, records come out
- ``node_scenario``: a node's part of a run; what it forwards is decoded as the root does it
- ``tree``: a run whose ranks have nodes' daemons between them and the root
- ``replaying``: the events again, from any snapshot on
"""

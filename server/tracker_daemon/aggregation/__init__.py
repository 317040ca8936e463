"""Aggregation: a pure fold from journalled events to records. No I/O, and no clock of its own.

* ``values``: the input and output of the folds.
* ``shared``: the common base of the folds of root and node.
* ``numbers``: statistics across ranks, and the summaries that a node sends to the root.
* ``root``: the fold of a daemon that records: events in, records out.
* ``node``: the fold of a daemon that forwards: events in, values for the root out.
"""

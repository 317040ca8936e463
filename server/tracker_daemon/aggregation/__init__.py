"""Aggregation: a pure fold from journalled events to records. No I/O, and no clock of its own.

* ``shared``: the common base of the folds of root and node, and the values that they take and give.
* ``numbers``: statistics across ranks, and the summaries that daemons send one another.
* ``root``: the fold of a daemon that records: events in, records out.
* ``node``: the fold of a daemon that forwards: events in, values for the root out.
"""

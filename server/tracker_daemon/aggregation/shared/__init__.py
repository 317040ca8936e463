"""Shared: the state and the rules that the folds of root and node have in common.

* ``fold``: the base of both folds, and the results of a tick.
* ``attempt``, ``panel``: the base of an attempt and its storage; ``placement``: where a block's metrics go.
* ``rules``: a run's ranks, the recorded ones, and the waiting times of cells.
* ``stream``: one stream's rank, names and counts.
* ``occurrence``, ``marks``: repeats of a metric at a step, and cells that have closed.
* ``bars``: the highest step that a rank had logged when it logged a row.
* ``automatic_steps``: steps that ranks count themselves.
* ``histograms``: groups histograms of one row. ``books``: counts of received values by their fate.
* ``plain_state``: state in plain types, for snapshots.
"""

"""Shared: values and state that the folds of root and node have in common.

* ``fold``: the interface of a fold, and the results of a tick.
* ``batch``, ``contribution``, ``item``: decoded input; ``record``: output, in columns.
* ``rules``: a run's ranks, the recorded ones, and how long cells wait.
* ``stream``: one stream's rank, names and counts; ``placement``: where a block's metrics go.
* ``occurrence``, ``marks``: repeats of a metric at a step, and cells that have closed.
* ``automatic_steps``: compares the metrics of ranks that count steps themselves.
* ``histograms``: groups histograms of one row. ``books``: what was received and what became of it.
* ``plain_state``: state in plain types, for snapshots.
"""

"""Root: the fold of one run at a daemon that records.

* ``fold``: applies events; ``snapshot``: its state as bytes.
* ``attempt``: the cells of one attempt; ``membership``: the expected ranks; ``progress``: how far each is.
* ``panel``: open cells, dense by rank; ``closing``: when they close; ``deadlines``: when that would change.
* ``rows``: the rows of ranks, in order; ``emission``: due rows to records; ``naming``: the recorded names.
* ``waiting_rows``: the rows of a rank that are not emitted yet.
* ``node_reports``: applies reports of nodes' daemons; ``merging``: adds their contributions; ``reports``: the
  summary of several ranks.
* ``configuration``: the run's configuration and its changes.
"""

"""Root: the fold of one run at a daemon that records.

* ``fold``: applies events; ``snapshot``: its state as bytes.
* ``attempt``: the cells of one attempt; ``membership``: the expected ranks.
* ``panel``: open cells, dense by rank; ``closing``: when they close; ``emission``: closed cells to records.
* ``merging``: adds a node's summaries. ``own_values``: values that are not aggregated.
* ``waiting_rows``: the rows of a rank that are not emitted yet.
* ``configuration``: the run's configuration and its changes.
"""

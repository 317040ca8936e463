"""Panel: the open cells of metrics that were first logged together, and the ranks that each cell waits for.

* ``cells``: the storage of cells, dense by rank, and their states.
* ``reporters``: the ranks that report a metric, and those that have passed a cell.
* ``contributions``: reports of ranks, and summaries over several, written into cells.
"""

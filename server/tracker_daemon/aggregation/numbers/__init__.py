"""Numbers: statistics of one cell across ranks.

* ``reduction``: mean, minimum, maximum and population standard deviation.
* ``summary``: the statistics of a node's ranks, in place of each rank's value.
* ``accumulator``: merges the summaries of several nodes.
"""

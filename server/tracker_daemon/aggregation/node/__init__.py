"""Node: the fold of one run at a daemon that forwards to a root.

* ``fold``: applies events; ``snapshot``: its state as bytes.
* ``attempt``, ``panel``: reported values, dense by row, rank and metric; ``cells``: those of the same ranks.
* ``rank_parts``: texts, items and ends, forwarded as they are.
* ``progress``: how far each rank is; ``steps``: steps that ranks count themselves.
* ``dictionary``: the names of the node's own stream.
"""

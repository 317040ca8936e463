"""Node: the fold of one run at a daemon that forwards to a root.

* ``fold``: applies events; ``snapshot``: its state as bytes.
* ``gathering``: reported values, dense by row, rank and metric; ``cells``: those with the same ranks.
* ``dictionary``: the names of the node's own stream.
* ``rank_parts``: texts, items and ends, forwarded as they are.
* ``progress``: how far each rank is; ``steps``: steps that ranks count themselves.
"""

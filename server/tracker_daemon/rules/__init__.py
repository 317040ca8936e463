"""Rules: the small languages in which settings speak of metrics and ranks. Pure.

* ``metric_names``: the names of aggregates and of ranks' own values.
* ``metric_rules``: rules by glob of metrics, such as ``"lr=none,loss=mean+max"``.
* ``rank_selection``: which ranks are recorded, and which ranks report a metric.
"""

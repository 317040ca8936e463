"""Rules: the small languages of settings for metrics and ranks. Pure.

* ``metric_names``: the names of aggregates and of ranks' own values.
* ``metric_rules``: rules by glob of metrics, such as ``"lr=none,loss=mean+max"``.
* ``metric_definitions``: the axes and summaries that a script defines during its run.
* ``rank_selection``: the recorded ranks, and the ranks that report a metric.
"""

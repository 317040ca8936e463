"""Processes: those of ranks and of their launchers, as this host shows them.

* ``host_watch``: whether a rank's process or its launcher has ended.
* ``launchers``: the programs whose exit status reports the failure of a rank.
"""

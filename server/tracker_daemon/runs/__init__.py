"""Runs: the runs, their ranks, attempts and streams.

* ``registry``: all runs, and whether a client may join one; ``run``: one run and its ranks' streams.
* ``identity``: decides which run of its launch a process joins; ``meeting``: lets a rank wait for that run.
* ``stored_runs``: restores runs from the journal. ``forgotten_runs``: the ids of runs not in memory.
* ``overdue_ranks``: finds ranks that are silent, gone or absent.
* ``exit_statuses``: the exit statuses of ranks that did not call ``finish()``.
* ``claims``: decides between two processes that claim one rank.
* ``run_options``: a run's own settings; ``client_options``: those that a client may give of its backends.
* ``run_endings``: ends runs whose ranks are gone, or whose launch has ended.
* ``launch_outcome``: the exit status of a launch's command, from ``run`` to the daemon.
"""

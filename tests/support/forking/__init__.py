"""Daemons that begin as a fork of a process that has imported the daemon's packages.

To start an interpreter and to import these packages takes most of the processor time that a daemon of a test
uses, and the tests start hundreds.

* ``server``: the prepared process; it forks at each request.
* ``forked``: asks for a fork, and has the methods of ``subprocess.Popen`` that tests call.

A forked daemon is a process of its own in all that the product does: it has its own process id, arguments,
environment, working directory and output, runs ``python -m tracker_daemon`` from the module's first line,
and ends as an interpreter ends. Only ``/proc/<pid>/cmdline`` and ``environ`` are the server's.
``pytest --exec-daemons`` starts a new interpreter for each daemon instead.
"""

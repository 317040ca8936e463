"""What tests share. A file here is imported by its name: ``from tests.support.waiting import wait_until``.

=================== ==============================================================================
file                what it has
=================== ==============================================================================
``waiting``         ``wait_until``: waiting for what another process or thread brings about
``optional_package`` ``OptionalPackage``: a package that is imported when a test first uses it
``leaping_loop``    ``LeapingLoop``: an event loop on which timeouts take no time
``daemon``          ``Daemon``: a real daemon process and its state directory
``forking``         what lets a daemon begin as a fork, which is fast
``ranks``           ``Ranks``: real rank processes that run a script against a daemon
``daemon_tree``     ``Tree``: a root, nodes' daemons that forward to it, and their ranks
``streaming``       a script whose ranks log in turns, and what must be recorded of all turns
``client_daemon``   ``FakeDaemon``: a daemon in this process, for the client's tests
``blocks``          blocks of records, written as lists of rows
``csv_ledger``      ``Ledger``: plays the journal for a CSV backend
``journal_scene``   ``Scene``: a journal with a run and a stream; ``transaction``, ``cursor_of``
``aggregation``     runs played without processes, as a sequence of events
``ingest``          messages, a recorder on a journal, and clients that a registry lets in
``upstream``        a root in this process, and a node's daemon that forwards to it
``cli``             daemons that the command line meets: one answers, one is a process that misbehaves
``servers``         servers that the product talks to: MLflow's own, a stub of W&B's
``hosts``           machines and clusters: systemd's nspawn, PBS, Slurm
=================== ==============================================================================

Scripts that a child process runs are here too. Their docstrings name them as such.
"""

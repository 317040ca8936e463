"""The daemon: ingest → journal → aggregation → delivery → backends.

One process receives every rank's stream and acknowledges what its journal has committed. It folds the ranks'
values into records, and delivers the records to each backend. Each backend has a cursor of its own.

The parts of the path of a value:

* ``ingest``: connections of ranks and nodes; ``wire``: protobuf messages to plain values and back, checked.
* ``recording``: the thread that applies, journals and commits events.
* ``aggregation``: the pure folds, of the root and of a node.
* ``journal``: durable events, outbox and cursors; ``outbox``: the entries of an outbox, as values.
* ``delivery``: pumps, lanes and cursors; ``backends``: the destinations of records.
* ``contents``: files of tables, images and artifacts; ``files``: durable changes to directories.
* ``upstream``: from a node's daemon to its root.

The parts that decide:

* ``runs``: runs, their ranks, attempts and streams; ``admission``: which clients may join them.
* ``rules``: rules by metric and rank. ``processes``: those of ranks and launchers on this host.
* ``settings``: definitions, loading and credentials; ``endpoints``: addresses, certificate, endpoint file.

The parts of the process:

* ``daemon``: the composition root; ``service``: the work of a running daemon; ``lifecycle``: its end.
* ``status``: the status document; ``logs``: the log; ``errors``: the exceptions; ``version``: the version.
* ``entry``, ``__main__``: the command's entry points; ``cli``: its options, output and exit status.
* ``launch``: starts and attends daemons and commands; ``doctor``: checks a machine before a training.
* ``inprocess``: the built-in backends in a script's own process, without a daemon.
"""

"""Transport: the only part of the client that uses gRPC and protobuf.

* ``stream``: one connection to the daemon.
* ``encoder``: rows to columnar batches within the message limits.
* ``uploads``: the loop that uploads contents, one after another, on a connection of its own.
* ``upload_call``: one call of the Upload method, and the meaning of its errors.
* ``probe``: checks that a daemon can be reached, without joining a run.
"""

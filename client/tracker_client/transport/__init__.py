"""Transport: the only part of the client that uses gRPC and protobuf.

* ``stream``: one connection to the daemon.
* ``messages``: the messages of a stream, as values; ``message_coding``: those values as protobuf, and back.
* ``encoder``: rows to batches within the message limits.
* ``blocks``: the columns of a batch; ``body``: its bytes; ``name_dictionary``: metric names by index.
* ``uploads``: the loop that uploads contents, one after another, on a connection of its own.
* ``upload_call``: one call of the Upload method, and the meaning of its errors.
* ``calls``: calls of the daemon: over a ``channel`` of gRPC, or by the helper of a ``forked`` process.
* ``grpc_loading``: imports gRPC without its handlers of forks.
* ``probe``: checks that a daemon can be reached, without joining a run.
"""

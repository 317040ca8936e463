"""The prepared process: ``python -m tests.support.forking.server FD``.

FD is a socket. A request is a line of JSON, and so is the answer:

* ``{"arguments", "environ", "directory"}`` with two file descriptors, for standard output and standard error:
  forks a process that runs the command; answers its process id.
* ``{"wait": pid}``: answers the status of this fork, as ``waitpid`` returns it, once it has ended.

The process has one thread and opens nothing else, so its forks begin with nothing but imported modules.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import socket
import sys
from typing import Any

import tracker_daemon.cli.serving
import tracker_daemon.daemon  # noqa: F401 - what `serve` imports when it serves

REQUEST_MAX_BYTES = 1 << 20


def main() -> None:
    """Answer requests until the socket closes; in a fork, run the command."""
    channel = socket.socket(fileno=int(sys.argv[1]))
    gc.collect()
    gc.freeze()  # a collection in a fork would copy the memory that all forks share
    while True:
        line, descriptors, _, _ = socket.recv_fds(channel, REQUEST_MAX_BYTES, 2)
        if not line:
            return
        request = json.loads(line)
        if "wait" in request:
            answer = os.waitpid(request["wait"], 0)[1]
        elif not (answer := os.fork()):
            break
        for descriptor in descriptors:
            os.close(descriptor)
        channel.send(json.dumps(answer).encode())
    channel.close()
    _become(request, descriptors)
    runpy.run_module("tracker_daemon", run_name="__main__", alter_sys=True)


def _become(request: dict[str, Any], descriptors: list[int]) -> None:
    """Take what a new process is given by the one that starts it."""
    for target, descriptor in zip((1, 2), descriptors, strict=True):
        os.dup2(descriptor, target)
        os.close(descriptor)
    os.chdir(request["directory"])
    sys.path[0] = request["directory"]  # as `-m` sets it
    os.environ.clear()
    os.environ.update(request["environ"])
    sys.argv[1:] = request["arguments"]


if __name__ == "__main__":
    main()

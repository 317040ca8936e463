"""Imports gRPC without its handlers of forks, unless the script has imported it already.

A forked child never uses gRPC's core here. In the child the handlers could abort the process, and in the
parent they print a line at each fork. gRPC reads the variable when it is imported; children get the
environment as it was.
"""

import os

_NAME = "GRPC_ENABLE_FORK_SUPPORT"
_is_unset = _NAME not in os.environ
os.environ.setdefault(_NAME, "0")

import grpc  # noqa: E402 - the variable must be set before

if _is_unset:
    del os.environ[_NAME]

__all__ = ["grpc"]

"""Fixtures of the tests of the command line: a server that answers as a daemon does, and a closed port."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.cli.answering_server import Server


@pytest.fixture
def server() -> Iterator[Server]:
    one = Server()
    yield one
    one.server.stop(None).wait()


@pytest.fixture
def closed_port() -> Iterator[int]:
    """A port that is taken, so that nobody else gets it, and at which nobody listens."""
    with socket.socket() as holder:
        holder.bind(("127.0.0.1", 0))
        yield holder.getsockname()[1]

"""Which of several addresses the client connects to."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tracker_client.endpoints import address_choice as reach
from tracker_client.endpoints.address_choice import AddressHistory, first_reachable
from tracker_client.errors import EndpointError


def listening() -> socket.socket:
    listener = socket.socket()
    listener.bind(("127.0.0.1", 0))
    listener.listen(16)
    return listener


def address(of: socket.socket) -> str:
    return f"127.0.0.1:{of.getsockname()[1]}"


@pytest.fixture
def good() -> Iterator[str]:
    with listening() as listener:
        yield address(listener)


@pytest.fixture
def refusing() -> str:
    with listening() as listener:
        return address(listener)


@pytest.fixture
def silent() -> Iterator[str]:
    """An address that answers nothing: its queue of connections is full, further ones are dropped."""
    with socket.socket() as listener, contextlib.ExitStack() as queued:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        for _ in range(4):
            one = queued.enter_context(socket.socket())
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.connect(listener.getsockname())
        yield address(listener)


def test_the_first_that_answers_is_taken(good: str) -> None:
    with listening() as second:
        assert first_reachable([good, address(second)]) == good


def test_dead_addresses_cost_a_moment_each(good: str, refusing: str, silent: str, monkeypatch) -> None:
    monkeypatch.setattr(reach.limits, "CONNECT_STAGGER_S", 0.01)
    assert first_reachable([refusing, silent, "unix:/nowhere", "[::1]:0", "nonsense", good]) == good


def test_where_none_answers_the_wait_is_bounded(refusing: str, silent: str, monkeypatch) -> None:
    monkeypatch.setattr(reach.limits, "CONNECT_RACE_S", 0.1)
    assert first_reachable([silent, refusing]) is None
    with pytest.raises(EndpointError, match=silent):
        AddressHistory().choose([silent, refusing])


def test_a_socket_of_this_host_is_an_address(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(f"{tmp_path}/s")
        listener.listen()
        assert first_reachable(["unix:/nowhere", f"unix:{tmp_path}/s"]) == f"unix:{tmp_path}/s"


def test_a_single_address_is_left_to_grpc() -> None:
    assert AddressHistory().choose(["nobody.invalid:1"]) == "nobody.invalid:1"


def test_the_address_that_was_good_comes_first_and_those_that_failed_last(good: str) -> None:
    with listening() as second, listening() as third:
        addresses = [good, address(second), address(third)]
        chosen = AddressHistory()
        assert chosen.choose(addresses) == good
        chosen.failed(good)  # something listens there, and it is no daemon
        assert chosen.choose(addresses) == addresses[1]
        chosen.worked(addresses[1])
        assert chosen.choose(addresses) == addresses[1]
        for each in addresses:
            chosen.failed(each)
        assert chosen.choose(addresses) == addresses[1], "all failed: begin again"

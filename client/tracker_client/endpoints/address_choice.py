"""Chooses the address of a daemon to connect to.

A daemon publishes all addresses of its host, and some cannot be reached from here: those of another network,
or of a bridge of containers. So if there are several, plain TCP connections are tried first, after RFC 8305
("Happy Eyeballs"): each begins CONNECT_STAGGER_S after the one before, and all end within CONNECT_RACE_S. The
first connection that succeeds decides. An address that worked before is tried first; addresses that have
failed since then are tried last.
"""

from __future__ import annotations

import contextlib
import selectors
import socket
import time
from collections.abc import Sequence

from tracker_client.errors import EndpointError
from tracker_protocol import limits


class AddressHistory:
    """The addresses that have worked and failed so far. For one thread."""

    def __init__(self) -> None:
        self._worked: str | None = None
        self._failed: list[str] = []

    def choose(self, addresses: Sequence[str]) -> str:
        """Return the address to connect to; if there is only one, without a try.

        Raises:
            EndpointError: none of several addresses can be reached.
        """
        if len(addresses) == 1:
            return addresses[0]
        if all(address in self._failed for address in addresses):
            self._failed.clear()
        ordered = sorted(addresses, key=lambda address: (address in self._failed, address != self._worked))
        chosen = first_reachable(ordered)
        if chosen is None:
            raise EndpointError(
                f"none of the daemon's addresses can be reached from here: {', '.join(addresses)}"
            )
        return chosen

    def worked(self, address: str) -> None:
        """Note that a daemon has welcomed this client at ``address``."""
        self._worked = address
        self._failed.clear()

    def failed(self, address: str) -> None:
        """Note that a connection to ``address`` has ended, or reached no daemon."""
        self._failed.append(address)


def first_reachable(addresses: Sequence[str]) -> str | None:
    """Return the first of ``addresses`` to accept a connection; None if none does within CONNECT_RACE_S."""
    waiting, begun = list(addresses), time.monotonic()
    with selectors.DefaultSelector() as selector:
        try:
            while True:
                waited = time.monotonic() - begun
                due = min(len(addresses), 1 + int(waited / limits.CONNECT_STAGGER_S))
                # If every connection so far has failed, the next one begins at once.
                while waiting and (len(addresses) - len(waiting) < due or not selector.get_map()):
                    if (address := waiting.pop(0)) and _begin(address, selector):
                        return address
                if not selector.get_map() or waited >= limits.CONNECT_RACE_S:
                    return None
                if (connected := _connected(selector)) is not None:
                    return connected
        finally:
            for key in list(selector.get_map().values()):
                key.fileobj.close()  # type: ignore[union-attr]  # only sockets are registered


def _begin(address: str, selector: selectors.BaseSelector) -> bool:
    """Begin a connection; return True if it succeeds at once, as to a Unix socket."""
    with contextlib.suppress(OSError, ValueError):
        attempt, where = _socket_for(address)
        attempt.setblocking(False)
        try:
            attempt.connect(where)
        except BlockingIOError:
            selector.register(attempt, selectors.EVENT_WRITE, address)
            return False
        except OSError:
            attempt.close()
            raise
        attempt.close()
        return True
    return False


def _socket_for(address: str) -> tuple[socket.socket, str | tuple[object, ...]]:
    if address.startswith("unix:"):
        return socket.socket(socket.AF_UNIX, socket.SOCK_STREAM), address.removeprefix("unix:")
    host, _, port = address.rpartition(":")
    family, kind, protocol, _, where = socket.getaddrinfo(
        host.strip("[]"), int(port), type=socket.SOCK_STREAM
    )[0]
    return socket.socket(family, kind, protocol), where


def _connected(selector: selectors.BaseSelector) -> str | None:
    """Wait up to CONNECT_STAGGER_S; return the address of a connection that succeeded; drop failed ones."""
    for key, _ in selector.select(limits.CONNECT_STAGGER_S):
        attempt = key.fileobj
        assert isinstance(attempt, socket.socket)
        if attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            return str(key.data)
        selector.unregister(attempt)
        attempt.close()
    return None

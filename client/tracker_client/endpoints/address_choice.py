"""Which of a daemon's addresses to connect to.

A daemon tells all that its host has, and some of them lead nowhere from here: another network, a bridge of
containers. So where there are several, plain connections to them are tried first, each a moment after the
one before and all within a bound (after RFC 8305, "Happy Eyeballs"); the first that comes about tells the
address. One that was good before is tried first, and those that led to no daemon since then last.
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
    """Remembers how the addresses fared. For one thread."""

    def __init__(self) -> None:
        self._good: str | None = None
        self._bad: list[str] = []

    def choose(self, addresses: Sequence[str]) -> str:
        """The address to connect to.

        Raises:
            EndpointError: none of several can be reached.
        """
        if len(addresses) == 1:
            return addresses[0]
        if all(address in self._bad for address in addresses):
            self._bad.clear()
        ordered = sorted(addresses, key=lambda address: (address in self._bad, address != self._good))
        chosen = first_reachable(ordered)
        if chosen is None:
            raise EndpointError(f"none of its addresses can be reached from here: {', '.join(addresses)}")
        return chosen

    def worked(self, address: str) -> None:
        """A daemon welcomed us there."""
        self._good = address
        self._bad.clear()

    def failed(self, address: str) -> None:
        """A connection there ended, or led to no daemon."""
        self._bad.append(address)


def first_reachable(addresses: Sequence[str]) -> str | None:
    """The first of ``addresses`` at which something accepts a connection; None if none does in time."""
    waiting, begun = list(addresses), time.monotonic()
    with selectors.DefaultSelector() as selector:
        try:
            while True:
                waited = time.monotonic() - begun
                due = min(len(addresses), 1 + int(waited / limits.CONNECT_STAGGER_S))
                # Where all that were tried have failed, there is nothing to wait for.
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
    """Begin a connection; True when it is there at once, as at a socket of this host."""
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
    """The address of an attempt that has succeeded within the next moment; failed ones are dropped."""
    for key, _ in selector.select(limits.CONNECT_STAGGER_S):
        attempt = key.fileobj
        assert isinstance(attempt, socket.socket)
        if attempt.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0:
            return str(key.data)
        selector.unregister(attempt)
        attempt.close()
    return None

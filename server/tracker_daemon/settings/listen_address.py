"""Addresses that a daemon listens at: ``host:port`` and ``unix:/path``."""

from __future__ import annotations

import ipaddress
import os
import re
from pathlib import Path

from tracker_daemon.settings.directories import absolute

UNIX_PREFIX = "unix:"
SOCKET_PATH_MAX_BYTES = 107
"""``sun_path`` has 108 bytes, the last of them zero; the kernel would cut or refuse a longer path."""

_HOST_PORT = re.compile(r"(?P<host>\[[0-9A-Fa-f:.%\w]+\]|[^\s:/\[\],]+):(?P<port>[0-9]{1,5})")


def normalised(address: str) -> str:
    """Return ``address`` in gRPC's form: ``host:port``, ``[::1]:port`` or ``unix:/absolute/path``.

    Raises:
        ValueError: the address is invalid; the message says why and what is allowed.
    """
    if address.startswith(UNIX_PREFIX):
        return UNIX_PREFIX + str(_socket_path(address.removeprefix(UNIX_PREFIX)))
    match = _HOST_PORT.fullmatch(address)
    if match is None:
        msg = f"{address!r} is no address; write host:port, [IPv6]:port or unix:/path"
        raise ValueError(msg)
    port = int(match["port"])
    if port > 65_535:
        msg = f"the port of {address!r} is above 65535; 0 lets the system choose one"
        raise ValueError(msg)
    return f"{match['host']}:{port}"


def is_loopback(address: str) -> bool:
    """Return True if only this host can use a normalised ``address``."""
    host = address.rpartition(":")[0].strip("[]")
    if address.startswith(UNIX_PREFIX) or host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def unix_path(address: str) -> Path | None:
    """Return the socket's path of a ``unix:`` address; None for ``host:port``."""
    return Path(address.removeprefix(UNIX_PREFIX)) if address.startswith(UNIX_PREFIX) else None


def _socket_path(text: str) -> Path:
    if not text.strip("/"):
        msg = "unix: needs the path of a socket, as in unix:/run/user/1000/tracker.sock"
        raise ValueError(msg)
    # Also folds gRPC's other spelling, unix:///path.
    path = Path("/" + text.lstrip("/")) if text.startswith("/") else absolute(Path(text))
    size = len(os.fsencode(path))
    if size > SOCKET_PATH_MAX_BYTES:
        msg = f"the socket path {path} has {size} bytes, the limit is {SOCKET_PATH_MAX_BYTES}; shorten it"
        raise ValueError(msg)
    return path

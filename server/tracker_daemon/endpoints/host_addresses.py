"""This host's addresses, as its network interfaces have them, in the order in which clients try them.

A daemon that listens at 0.0.0.0 or [::] is to be reached at each of them. Which one a rank on another
node can use is not known here, so all are told, numerically: names may not resolve on the ranks' side. The
interfaces that the user prefers come first, then those of high-speed networks by their usual names, and
the bridges of containers and virtual machines last. The loopback is told only where there is nothing else.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import ipaddress
import os
import socket
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from tracker_daemon.errors import SettingsError

HIGH_SPEED = ("hsn", "ib", "opa", "roce", "bond")
"""How interfaces of Slingshot, InfiniBand, Omni-Path and the like are called."""
VIRTUAL = ("docker", "br-", "virbr", "veth", "cni", "podman", "lxc", "flannel", "cali", "tun", "tap")
WILDCARDS = {"0.0.0.0": (4,), "[::]": (4, 6)}  # noqa: S104 - what the user asks for, with the versions that it hears
_IFF_UP = 0x1

Address = ipaddress.IPv4Address | ipaddress.IPv6Address


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """One address of an interface that is up."""

    interface: str
    address: Address


def advertised_hosts(host: str, preferred: Sequence[str] = ()) -> list[str]:
    """The hosts by which clients reach a daemon that listens at ``host``: all where that is a wildcard.

    IPv6 addresses are in brackets. ``preferred`` are names of interfaces.

    Raises:
        SettingsError: there is no interface of a name preferred.
    """
    if host not in WILDCARDS:
        return [host]
    found = in_order(interface_addresses(), preferred)
    hosts = [_bracketed(each.address) for each in found if each.address.version in WILDCARDS[host]]
    return hosts or ["127.0.0.1"]


def in_order(found: Iterable[InterfaceAddress], preferred: Sequence[str]) -> list[InterfaceAddress]:
    """The addresses that others can use, the best first; the loopback's where there are no others.

    Raises:
        SettingsError: there is no interface of a name preferred.
    """
    found = list(found)
    names = sorted({each.interface for each in found})
    unknown = [name for name in preferred if name not in names]
    if unknown:
        raise SettingsError(
            f"interface = {','.join(preferred)}: no interface {unknown[0]!r} with an address is up; "
            f"there are {', '.join(names)}"
        )
    # An address of a link alone needs a zone, which differs on every host.
    usable = [each for each in found if not each.address.is_link_local]
    others = [each for each in usable if not each.address.is_loopback or each.interface in preferred]
    return sorted(others or usable, key=lambda each: _order(each, preferred))


def _order(each: InterfaceAddress, preferred: Sequence[str]) -> tuple[int, int, int]:
    if each.interface in preferred:
        return (0, preferred.index(each.interface), each.address.version)
    if each.interface.startswith(HIGH_SPEED):
        return (1, 0, each.address.version)
    return (3 if each.interface.startswith(VIRTUAL) else 2, 0, each.address.version)


def _bracketed(address: Address) -> str:
    return f"[{address}]" if address.version == 6 else str(address)


# ---- asking the system ---------------------------------------------------------------------------


class _Ifaddrs(ctypes.Structure):
    """``struct ifaddrs`` of getifaddrs(3), as far as it is the same on Linux and needed."""


_Ifaddrs._fields_ = [
    ("next", ctypes.POINTER(_Ifaddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
]


def interface_addresses() -> list[InterfaceAddress]:
    """All IPv4 and IPv6 addresses of the interfaces that are up, in the system's order.

    Raises:
        OSError: the system does not tell.
    """
    library = ctypes.CDLL(None, use_errno=True)
    first = ctypes.POINTER(_Ifaddrs)()
    if library.getifaddrs(ctypes.byref(first)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"the network interfaces cannot be listed: {os.strerror(number)}")
    try:
        return list(_entries(first))
    finally:
        library.freeifaddrs(first)


def _entries(entry: ctypes._Pointer[_Ifaddrs]) -> Iterator[InterfaceAddress]:
    while bool(entry):  # a pointer is true unless it is null
        found = entry.contents
        address = _socket_address(found.address) if found.flags & _IFF_UP else None
        if address is not None:
            yield InterfaceAddress(found.name.decode(errors="replace"), address)
        entry = found.next


def _socket_address(pointer: int | None) -> Address | None:
    """What a ``struct sockaddr`` holds: the family, two bytes; at 4 IPv4's address, at 8 IPv6's."""
    if not pointer:
        return None
    family = ctypes.c_ushort.from_address(pointer).value
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(ctypes.string_at(pointer + 4, 4))
    if family == socket.AF_INET6:
        return ipaddress.IPv6Address(ctypes.string_at(pointer + 8, 16))
    return None

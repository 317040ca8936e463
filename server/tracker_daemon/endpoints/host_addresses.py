"""This host's addresses, by network interface, in the order in which clients try them.

A daemon that listens at 0.0.0.0 or [::] can be reached at each of them. It does not know which address a
rank on another node can use, so clients get all. The addresses are numeric, since names may not resolve on
the ranks' hosts. Interfaces that the user prefers are first, then high-speed networks by their usual names.
Bridges of containers and virtual machines are last. The loopback is used only if there is nothing else.
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
"""Prefixes of interface names for Slingshot, InfiniBand, Omni-Path and similar networks."""
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
    """Return the hosts at which clients reach a daemon that listens at ``host``; all for a wildcard.

    IPv6 addresses are in brackets. ``preferred`` are names of interfaces.

    Raises:
        SettingsError: a preferred interface does not exist.
    """
    if host not in WILDCARDS:
        return [host]
    found = in_order(interface_addresses(), preferred)
    hosts = [_bracketed(each.address) for each in found if each.address.version in WILDCARDS[host]]
    return hosts or ["127.0.0.1"]


def in_order(found: Iterable[InterfaceAddress], preferred: Sequence[str]) -> list[InterfaceAddress]:
    """Return the addresses that other hosts can use, best first; the loopback's if there are no others.

    Raises:
        SettingsError: a preferred interface does not exist.
    """
    found = list(found)
    names = sorted({each.interface for each in found})
    unknown = [name for name in preferred if name not in names]
    if unknown:
        raise SettingsError(
            f"interface = {','.join(preferred)}: no interface {unknown[0]!r} with an address is up; "
            f"there are {', '.join(names)}"
        )
    # A link-local address needs a zone, which differs on every host.
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
    """``struct ifaddrs`` of getifaddrs(3): the needed fields, as Linux lays them out."""


_Ifaddrs._fields_ = [
    ("next", ctypes.POINTER(_Ifaddrs)),
    ("name", ctypes.c_char_p),
    ("flags", ctypes.c_uint),
    ("address", ctypes.c_void_p),
]


def interface_addresses() -> list[InterfaceAddress]:
    """Return all IPv4 and IPv6 addresses of the interfaces that are up, in the system's order.

    Raises:
        OSError: the system call failed.
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
    """Read a ``struct sockaddr``: two bytes of family; IPv4's address at offset 4, IPv6's at 8."""
    if not pointer:
        return None
    family = ctypes.c_ushort.from_address(pointer).value
    if family == socket.AF_INET:
        return ipaddress.IPv4Address(ctypes.string_at(pointer + 4, 4))
    if family == socket.AF_INET6:
        return ipaddress.IPv6Address(ctypes.string_at(pointer + 8, 16))
    return None

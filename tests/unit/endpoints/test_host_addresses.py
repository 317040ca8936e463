"""Which addresses a daemon tells its clients, and in which order."""

from __future__ import annotations

import ipaddress

import pytest

from tracker_daemon.endpoints import host_addresses as addresses
from tracker_daemon.endpoints.host_addresses import (
    InterfaceAddress,
    advertised_hosts,
    in_order,
    interface_addresses,
)
from tracker_daemon.errors import SettingsError

HOST = [
    InterfaceAddress(name, ipaddress.ip_address(address))
    for name, address in (
        ("lo", "127.0.0.1"),
        ("docker0", "172.17.0.1"),
        ("eth0", "192.0.2.4"),
        ("hsn0", "10.1.0.4"),
        ("hsn1", "10.2.0.4"),
        ("lo", "::1"),
        ("eth0", "2001:db8::4"),
        ("eth0", "fe80::4"),
        ("hsn0", "fd00::4"),
    )
]


@pytest.fixture(autouse=True)
def this_host(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if "really" not in request.node.name:
        monkeypatch.setattr(addresses, "interface_addresses", lambda: HOST)


def test_high_speed_networks_come_first_and_bridges_last() -> None:
    assert advertised_hosts("0.0.0.0") == ["10.1.0.4", "10.2.0.4", "192.0.2.4", "172.17.0.1"]


def test_ipv6_is_told_where_it_is_listened_at_and_stands_in_brackets() -> None:
    assert advertised_hosts("[::]")[:4] == ["10.1.0.4", "10.2.0.4", "[fd00::4]", "192.0.2.4"]


def test_what_only_a_link_or_the_host_itself_can_use_is_not_told() -> None:
    assert not {"127.0.0.1", "[::1]", "[fe80::4]"} & set(advertised_hosts("[::]"))


def test_preferred_interfaces_come_first_in_the_order_given() -> None:
    assert advertised_hosts("0.0.0.0", ["eth0", "hsn1"])[:3] == ["192.0.2.4", "10.2.0.4", "10.1.0.4"]
    assert advertised_hosts("0.0.0.0", ["lo"])[0] == "127.0.0.1"


def test_an_interface_that_is_not_there_is_named_with_those_that_are() -> None:
    with pytest.raises(SettingsError, match=r"'ib7'.*docker0, eth0, hsn0, hsn1, lo"):
        advertised_hosts("0.0.0.0", ["ib7"])


def test_a_host_alone_with_itself_tells_the_loopback() -> None:
    assert [str(each.address) for each in in_order(HOST[:1], [])] == ["127.0.0.1"]


def test_one_address_is_told_as_it_is() -> None:
    assert advertised_hosts("login-1.cluster", ["hsn0"]) == ["login-1.cluster"]


def test_the_system_really_tells_its_interfaces() -> None:
    found = interface_addresses()
    assert InterfaceAddress("lo", ipaddress.ip_address("127.0.0.1")) in found

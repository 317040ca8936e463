"""Addresses to listen at."""

from __future__ import annotations

from pathlib import Path

import pytest

from tracker_daemon.settings.listen_address import SOCKET_PATH_MAX_BYTES, normalised, unix_path


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("127.0.0.1:0", "127.0.0.1:0"),
        ("[::1]:0", "[::1]:0"),
        ("[fe80::1%eth0]:80", "[fe80::1%eth0]:80"),
        ("login-1.cluster:50051", "login-1.cluster:50051"),
        ("host:0080", "host:80"),
        ("unix:/run/t.sock", "unix:/run/t.sock"),
        ("unix:///run/t.sock", "unix:/run/t.sock"),
    ],
)
def test_an_address_is_brought_to_the_form_that_grpc_takes(given: str, used: str) -> None:
    assert normalised(given) == used


def test_a_relative_socket_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert normalised("unix:t.sock") == f"unix:{tmp_path}/t.sock"
    assert unix_path(normalised("unix:t.sock")) == tmp_path / "t.sock"
    assert unix_path("127.0.0.1:0") is None


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ("localhost", "host:port"),
        ("::1:0", "IPv6"),
        ("host:", "host:port"),
        ("host:x", "host:port"),
        ("host:65536", "65535"),
        ("http://host:80", "host:port"),
        ("unix:", "path of a socket"),
        ("", "host:port"),
    ],
)
def test_what_is_no_address_is_refused_with_what_is_allowed(given: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        normalised(given)


def test_a_socket_path_may_fill_what_the_kernel_takes_and_no_more() -> None:
    longest = "/" + "x" * (SOCKET_PATH_MAX_BYTES - 1)
    assert normalised("unix:" + longest) == "unix:" + longest
    with pytest.raises(ValueError, match="108 bytes"):
        normalised("unix:" + longest + "x")


def test_a_socket_path_is_measured_in_bytes() -> None:
    with pytest.raises(ValueError, match="bytes"):
        normalised("unix:/" + "ü" * 60)

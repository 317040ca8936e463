"""The endpoint file: whole or not there, readable by its owner alone, and clear when it is wrong."""

from __future__ import annotations

import json
import os
import threading
from pathlib import Path

import msgspec
import pytest

from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.errors import DaemonNotRunning, EndpointError

INFO = EndpointInfo(
    endpoint="127.0.0.1:4711",
    endpoints=("127.0.0.1:4711", "unix:/run/t.sock"),
    token="s3cret",
    tls_root_pem=None,
    pid=17,
    host="node1",
    protocol_version=1,
)


def test_what_was_written_is_read_back(tmp_path: Path) -> None:
    path = tmp_path / "made" / "for" / "it" / "endpoint.json"
    INFO.write_atomically(path)
    assert EndpointInfo.read(path) == INFO


def test_the_file_has_the_documented_fields(tmp_path: Path) -> None:
    INFO.write_atomically(tmp_path / "e.json")
    assert json.loads((tmp_path / "e.json").read_text()) == {
        "endpoint": "127.0.0.1:4711",
        "endpoints": ["127.0.0.1:4711", "unix:/run/t.sock"],
        "token": "s3cret",
        "tls_root_pem": None,
        "pid": 17,
        "host": "node1",
        "protocol_version": 1,
    }


def test_nobody_else_may_read_it_whatever_the_umask_or_the_file_before(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text("old")
    path.chmod(0o666)
    previous = os.umask(0)
    try:
        INFO.write_atomically(path)
    finally:
        os.umask(previous)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_reader_sees_one_file_or_the_other_and_never_a_part(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    small, large = INFO, msgspec.structs.replace(INFO, token="x" * 100_000)
    small.write_atomically(path)
    done = threading.Event()

    def rewrite() -> None:
        for _ in range(50):
            large.write_atomically(path)
            small.write_atomically(path)
        done.set()

    writer = threading.Thread(target=rewrite)
    writer.start()
    seen = {EndpointInfo.read(path).token for _ in iter(done.is_set, True)}
    writer.join()
    assert seen <= {small.token, large.token}
    assert [file.name for file in tmp_path.iterdir()] == ["e.json"]


def test_a_failed_write_leaves_the_file_before_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "e.json"
    INFO.write_atomically(path)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(EndpointError, match="No space left"):
        msgspec.structs.replace(INFO, pid=99).write_atomically(path)
    assert EndpointInfo.read(path) == INFO
    assert [file.name for file in tmp_path.iterdir()] == ["e.json"]


def test_a_missing_file_is_told_from_a_broken_one(tmp_path: Path) -> None:
    with pytest.raises(DaemonNotRunning, match=r"there is no endpoint file .*none\.json"):
        EndpointInfo.read(tmp_path / "none.json")
    for content in ("{", "[]", '{"endpoint": "x"}', '{"endpoint": 5}'):
        (tmp_path / "e.json").write_text(content)
        with pytest.raises(EndpointError, match="not an endpoint file") as caught:
            EndpointInfo.read(tmp_path / "e.json")
        assert not isinstance(caught.value, DaemonNotRunning)
    with pytest.raises(EndpointError, match="cannot be read"):
        EndpointInfo.read(tmp_path)


def test_fields_of_a_newer_daemon_are_ignored(tmp_path: Path) -> None:
    (tmp_path / "e.json").write_bytes(msgspec.json.encode(msgspec.to_builtins(INFO) | {"invented_later": {}}))
    assert EndpointInfo.read(tmp_path / "e.json") == INFO


def test_the_token_stays_out_of_logs() -> None:
    assert "s3cret" not in f"{INFO!r} {INFO}"

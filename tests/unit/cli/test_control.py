"""Asking a daemon: over real gRPC, with a server that answers as a daemon does."""

from __future__ import annotations

import threading
from pathlib import Path
from typing import Any

import grpc
import msgspec
import pytest

from tracker_daemon.endpoints.control import DaemonClient
from tracker_daemon.endpoints.endpoint_file import ENDPOINT_FILE_NAME, EndpointInfo
from tracker_daemon.endpoints.locate import EndpointChoice, locate
from tracker_daemon.errors import DaemonNotRunning, EndpointError
from tracker_protocol.v1 import tracker_pb2 as pb


def at(port: int, **fields: object) -> EndpointInfo:
    address = f"127.0.0.1:{port}"
    return msgspec.structs.replace(EndpointInfo(address, (address,), "s3cret", None, 1, "h", 1), **fields)


def test_the_status_is_the_daemons_document_unchanged(server: Any) -> None:
    assert DaemonClient(server.info).status() == server.document


def test_stop_tells_the_drain_time_and_returns_the_process(server: Any) -> None:
    assert DaemonClient(server.info).stop() == 4711
    DaemonClient(server.info).stop(2.5)
    DaemonClient(server.info).stop(0.0)
    assert server.drain_timeouts == [None, 2.5, 0.0]  # None leaves it to the daemon


def test_proxies_of_the_environment_are_not_asked(
    server: Any, monkeypatch: pytest.MonkeyPatch, closed_port: int
) -> None:
    for name in ("http_proxy", "https_proxy", "grpc_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{closed_port}")
    monkeypatch.delenv("no_proxy", raising=False)
    assert DaemonClient(server.info).status() == server.document


def test_nothing_at_the_address_is_no_daemon(closed_port: int) -> None:
    with pytest.raises(DaemonNotRunning, match=f"no daemon answers at 127.0.0.1:{closed_port}"):
        DaemonClient(at(closed_port)).status()


def test_the_next_address_is_tried_where_the_first_does_not_answer(server: Any, closed_port: int) -> None:
    endpoints = (f"127.0.0.1:{closed_port}", server.info.endpoint)
    assert DaemonClient(at(closed_port, endpoints=endpoints)).status() == server.document


def test_a_refused_token_is_told_with_what_to_do(server: Any) -> None:
    wrong = msgspec.structs.replace(server.info, token="wrong")
    with pytest.raises(EndpointError, match=r"refuses the token.*TRACKER_TOKEN") as caught:
        DaemonClient(wrong).status()
    assert not isinstance(caught.value, DaemonNotRunning)
    assert "wrong" not in str(caught.value)


def test_a_daemon_that_does_not_answer_is_given_up(server: Any) -> None:
    server.status = lambda _, context: _never(context)
    with pytest.raises(EndpointError, match="did not answer in time"):
        DaemonClient(server.info).status(timeout_s=0.2)


def _never(context: grpc.ServicerContext) -> object:
    over = threading.Event()
    context.add_callback(over.set)
    over.wait()
    return None


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (grpc.StatusCode.UNIMPLEMENTED, "another version"),
        (grpc.StatusCode.INTERNAL, "INTERNAL: it broke"),
    ],
)
def test_other_failures_are_told_by_their_code(server: Any, code: grpc.StatusCode, told: str) -> None:
    server.status = lambda _, context: context.abort(code, "it broke")
    with pytest.raises(EndpointError, match=told):
        DaemonClient(server.info).status()


def test_a_document_beyond_grpcs_own_limit_is_taken(server: Any) -> None:
    server.status = lambda _, __: pb.StatusReply(json="x" * (5 * 1024 * 1024))
    assert len(DaemonClient(server.info).status()) == 5 * 1024 * 1024


# ---- which daemon --------------------------------------------------------------------------------


@pytest.fixture
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with an endpoint file in each place; each daemon's pid tells which it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "service"))
    for pid, place in enumerate(
        ["option", "option_dir", "variable", "variable_dir", ".tracker", "service"], 1
    ):
        at(1, pid=pid).write_atomically(tmp_path / place / ENDPOINT_FILE_NAME)
    return tmp_path


def test_the_command_line_goes_before_the_environment_before_the_usual_places(files: Path) -> None:
    environ = {"TRACKER_STATE_DIR": str(files / "variable_dir")}
    named = environ | {"TRACKER_ENDPOINT_FILE": str(files / "variable" / ENDPOINT_FILE_NAME)}
    option = EndpointChoice(endpoint_file=files / "option" / ENDPOINT_FILE_NAME)
    assert locate(option, named).pid == 1
    assert locate(EndpointChoice(state_dir=files / "option_dir"), named).pid == 2
    assert locate(EndpointChoice(), named).pid == 3
    assert locate(EndpointChoice(), environ).pid == 4
    assert locate(EndpointChoice(), {}).pid == 5
    (files / ".tracker" / ENDPOINT_FILE_NAME).unlink()
    assert locate(EndpointChoice(), {}).pid == 6


def test_where_there_is_no_daemon_the_places_are_named(files: Path) -> None:
    for place in (".tracker", "service"):
        (files / place / ENDPOINT_FILE_NAME).unlink()
    with pytest.raises(DaemonNotRunning, match=r"\.tracker/endpoint\.json nor .*service/endpoint\.json"):
        locate(EndpointChoice(), {})


def test_a_file_that_was_named_is_not_replaced_by_another(files: Path) -> None:
    with pytest.raises(DaemonNotRunning, match="nowhere"):
        locate(EndpointChoice(state_dir=files / "nowhere"), {})


def test_an_address_takes_its_token_from_the_environment(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("from-file\n")
    (tmp_path / "root.pem").write_text("PEM")
    choice = EndpointChoice(endpoint="host:0080")
    assert locate(choice, {"TRACKER_TOKEN": "direct"}).token == "direct"
    found = locate(
        choice,
        {"TRACKER_TOKEN_FILE": str(tmp_path / "token"), "TRACKER_TLS_ROOT": str(tmp_path / "root.pem")},
    )
    assert (found.endpoint, found.token, found.tls_root_pem) == ("host:80", "from-file", "PEM")
    assert (
        locate(EndpointChoice(), {"TRACKER_ENDPOINT": "unix:/s", "TRACKER_TOKEN": "t"}).endpoint == "unix:/s"
    )


def test_an_endpoint_may_be_an_endpoint_files_path(files: Path) -> None:
    assert locate(EndpointChoice(endpoint=str(files / "option" / ENDPOINT_FILE_NAME)), {}).pid == 1


@pytest.mark.parametrize(
    ("endpoint", "environ", "told"),
    [
        ("host:80", {}, "set TRACKER_TOKEN or TRACKER_TOKEN_FILE"),
        (
            "host:80",
            {"TRACKER_TOKEN_FILE": "/no/such"},
            "/no/such that TRACKER_TOKEN_FILE names cannot be read",
        ),
        ("host", {"TRACKER_TOKEN": "t"}, "host:port"),
    ],
)
def test_an_address_that_cannot_be_used_is_told(endpoint: str, environ: dict[str, str], told: str) -> None:
    with pytest.raises(EndpointError, match=told):
        locate(EndpointChoice(endpoint=endpoint), environ)

"""The launch's own daemon, as the client sees it: which files it believes, and what it starts."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tracker_client.endpoints import embedded, embedded_daemon
from tracker_client.endpoints.embedded import EmbeddedEndpoint, LaunchFile, embedded_endpoint
from tracker_client.endpoints.embedded_daemon import EmbeddedDaemon
from tracker_client.errors import EmbeddedDaemonFailed, EndpointError, EndpointMissing, EndpointPending
from tracker_client.identity.rank import ALONE, RankInfo
from tracker_protocol import limits
from tracker_protocol.runtime_directory import make_runtime_directory


@pytest.fixture(autouse=True)
def _packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """The daemon's packages count as installed, also where the client is tested alone."""
    monkeypatch.setattr(embedded, "demand_daemon", lambda: None)


@pytest.fixture
def file(tmp_path: Path) -> LaunchFile:
    return LaunchFile(tmp_path / ".tracker", "the launch")


def publish(file: LaunchFile, **changed: object) -> None:
    document = {
        "endpoint": "10.0.0.1:7", "endpoints": ["10.0.0.1:7", "[fd00::1]:7"], "token": "t",
        "tls_root_pem": None, "pid": os.getpid(), "host": socket.gethostname(), "launch_key": file.launch_key,
    }  # fmt: skip
    file.directory.mkdir(exist_ok=True)
    file.path.write_text(json.dumps(document | changed))


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


class FakeDaemon(EmbeddedDaemon):
    """Starts a program of the test's in the place of a daemon."""

    def __init__(self, path: Path, program: str) -> None:
        super().__init__(path, "the launch", several_hosts=False)
        self.program = program
        self.starts = 0

    def _command(self) -> list[str]:
        self.starts += 1
        return [sys.executable, "-c", self.program]

    def await_end(self) -> None:
        assert self._process is not None
        self._process.wait()


@dataclass
class Commands:
    """The commands that were started as daemons; each runs on until the test is over."""

    directory: Path

    def started(self, count: int) -> list[list[str]]:
        log = self.directory / "commands"
        wait_until(lambda: log.exists() and log.read_text().count("\n") >= count, "the daemon to be started")
        return [line.split() for line in log.read_text().splitlines()]


@pytest.fixture
def commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Commands]:
    """An interpreter that only notes what it is to run."""
    directory = tmp_path / "interpreter"
    directory.mkdir()
    interpreter = directory / "python"
    interpreter.write_text(
        f'#!/bin/sh\necho "$@" >> {directory}/commands\nwhile [ ! -e {directory}/over ]; do sleep .1; done\n'
    )
    interpreter.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(interpreter))
    yield Commands(directory)
    (directory / "over").touch()


def test_a_launch_has_one_file_whatever_its_key_holds(tmp_path: Path) -> None:
    names = {LaunchFile(tmp_path, key).path.name for key in ("a", "b", "a/../../b", "\udcff", "x" * 5_000)}
    assert len(names) == 5
    assert all(name.startswith("launch-") and len(name) < 40 for name in names)


def test_another_rank_waits_until_the_file_is_there(file: LaunchFile) -> None:
    waiting = EmbeddedEndpoint(file, None)
    with pytest.raises(EndpointPending, match="rank 0"):
        waiting.read()
    publish(file)
    assert waiting.read().addresses == ("10.0.0.1:7", "[fd00::1]:7")
    assert waiting.read().token == "t"


@pytest.mark.parametrize(
    "stale",
    [
        {"launch_key": "another"},
        {"launch_key": None},
        {"pid": "dead"},
        {"endpoints": ["/"]},
        {"endpoints": 3},
    ],
)
def test_a_stale_file_is_not_believed(file: LaunchFile, stale: dict[str, object]) -> None:
    publish(file, **({"pid": dead_pid()} if "pid" in stale else stale))
    with pytest.raises(EndpointPending):
        EmbeddedEndpoint(file, None).read()


def test_the_pid_of_another_host_tells_nothing(file: LaunchFile) -> None:
    publish(file, pid=dead_pid(), host="node7")
    assert EmbeddedEndpoint(file, None).read().addresses


def test_rank_0_asks_for_a_daemon_again_when_what_a_file_says_does_not_help(file: LaunchFile) -> None:
    publish(file, host="node7")
    daemon = FakeDaemon(file.path, "")
    endpoint = EmbeddedEndpoint(file, daemon)
    for _ in range(embedded.CONNECTIONS_BEFORE_RESTART):
        assert endpoint.read().addresses
    with pytest.raises(EndpointPending):
        endpoint.read()
    assert daemon.starts == 1
    daemon.await_end()


def test_a_daemon_that_ends_at_once_gives_its_last_words_and_is_tried_again(file: LaunchFile) -> None:
    daemon = FakeDaemon(file.path, "import sys; sys.exit('error: no room\\n')")
    daemon.ensure()
    daemon.await_end()
    with pytest.raises(EmbeddedDaemonFailed, match=f"no room; its log is {daemon.log_path}"):
        daemon.ensure()
    daemon.ensure()
    daemon.await_end()
    assert daemon.starts == 2


def test_a_joined_daemon_counts_as_alive_where_its_pid_says_nothing(file: LaunchFile) -> None:
    daemon = FakeDaemon(file.path, "")
    endpoint = EmbeddedEndpoint(file, daemon)
    endpoint.prepare()
    daemon.await_end()
    publish(file, pid=dead_pid())
    assert endpoint.read().addresses


def test_a_directory_that_cannot_be_made_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    daemon = FakeDaemon(tmp_path / "file" / ".tracker" / "launch.json", "")
    with pytest.raises(EmbeddedDaemonFailed, match="file"):
        daemon.ensure()


def test_the_log_stays_bounded(file: LaunchFile, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedded_daemon.limits, "EMBEDDED_LOG_MAX_BYTES", 10)
    daemon = FakeDaemon(file.path, "print('a long line of the log')")
    for _ in range(3):
        daemon.ensure()
        daemon.await_end()
    assert daemon.log_path.read_text().count("\n") == 1
    assert daemon.log_path.with_suffix(".log.1").read_text().count("\n") == 1


@pytest.mark.parametrize(
    ("environ", "world_size", "several"),
    [
        ({}, 1, False),
        ({"LOCAL_WORLD_SIZE": "4"}, 4, False),
        ({"MPI_LOCALNRANKS": "2"}, 4, True),
        ({}, 4, True),
        ({}, None, True),
    ],
)
def test_a_launch_on_several_hosts_is_listened_to_on_the_network(
    commands: Commands, tmp_path: Path, environ: dict[str, str], world_size: int | None, several: bool
) -> None:
    info = RankInfo(0, world_size, 0, "test")
    embedded_endpoint(environ, tmp_path, info, f"{tmp_path}").prepare()
    (command,) = commands.started(1)
    assert ("--several-hosts" in command) == several


def test_a_directory_that_cannot_be_written_is_an_error_at_once_that_names_it(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    info = RankInfo(0, 1, 0, "test")
    with pytest.raises(EndpointError, match=re.escape(f"{tmp_path}/file/.tracker: File exists")):
        embedded_endpoint({}, tmp_path / "file", info, "k")
    with pytest.raises(EndpointError, match="choose another directory with outdir"):
        embedded_endpoint({}, Path("/proc/tracker"), info, "k")


def test_all_trackers_of_a_lone_process_share_one_daemon(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun = []
    begin = subprocess.Popen.__init__

    def note(process: subprocess.Popen[bytes], command: list[str], **options: object) -> None:
        begun.append(command)
        begin(process, command, **options)

    monkeypatch.setattr(subprocess.Popen, "__init__", note)
    info = RankInfo(0, 1, 0, ALONE)
    endpoints = [embedded_endpoint({}, tmp_path, info, key) for key in ("a", "b", "c")]
    for endpoint in endpoints:
        endpoint.prepare()
    (command,) = begun
    assert f"--embedded={endpoints[-1]}" in command
    commands.started(1)


def test_without_the_daemons_packages_the_error_names_the_extra_and_imports_nothing() -> None:
    program = """
import importlib.util, sys
from importlib.machinery import ModuleSpec
sys.modules["pydantic"] = None
# The others count as installed, also where the client is tested alone.
found = importlib.util.find_spec
importlib.util.find_spec = lambda name: found(name) if name == "pydantic" else ModuleSpec(name, None)
from tracker_client import setup_tracker
from tracker_client.errors import EndpointError
try:
    setup_tracker()
except EndpointError as error:
    print(error)
print(sorted({"tracker_daemon", "numpy", "typer", "msgspec"} & set(sys.modules)))
"""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
    done = subprocess.run(
        [sys.executable, "-c", program], env=environ, capture_output=True, text=True, check=True
    )
    assert "pydantic not installed" in done.stdout
    assert "pip install tracker-daemon[daemon]" in done.stdout
    assert done.stdout.endswith("[]\n")


def test_other_ranks_need_no_daemon_packages(tmp_path: Path, monkeypatch) -> None:
    def refuse() -> None:
        raise EndpointError("not here")

    monkeypatch.setattr(embedded, "demand_daemon", refuse)
    embedded_endpoint({}, tmp_path, RankInfo(1, 2, 1, "test"), "k")
    with pytest.raises(EndpointError):
        embedded_endpoint({}, tmp_path, RankInfo(0, 2, 0, "test"), "k")


# ---- ranks with other directories ----------------------------------------------------------------


@pytest.fixture
def runtime(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The runtime directory's place, private; TMPDIR and XDG_RUNTIME_DIR name no other one."""
    directory = tmp_path / "runtime"
    directory.mkdir(mode=0o700)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(directory))
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    return make_runtime_directory(os.environ)


def of_rank_1(tmp_path: Path, launch_key: str = "the launch") -> EmbeddedEndpoint:
    info = RankInfo(1, 2, 1, "torchrun")
    return embedded_endpoint(os.environ, tmp_path / "its own", info, launch_key)


def test_a_rank_of_another_directory_finds_the_daemon_by_the_launch_key(
    tmp_path: Path, runtime: Path
) -> None:
    publish(LaunchFile(runtime, "the launch"))
    assert of_rank_1(tmp_path).read().token == "t"
    with pytest.raises(EndpointMissing):
        of_rank_1(tmp_path, "another launch").read()


def test_a_rank_without_a_daemon_in_sight_is_told_both_directories(tmp_path: Path, runtime: Path) -> None:
    with pytest.raises(EndpointMissing) as missing:
        of_rank_1(tmp_path).read()
    for part in (str(tmp_path / "its own" / ".tracker"), str(runtime), "outdir="):
        assert part in str(missing.value)


def test_a_file_from_before_the_rank_began_is_believed_only_after_a_wait(
    tmp_path: Path, runtime: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = LaunchFile(runtime, "the launch")
    publish(file)
    os.utime(file.path, (1.0, 1.0))
    endpoint = of_rank_1(tmp_path)
    with pytest.raises(EndpointMissing):
        endpoint.read()
    monkeypatch.setattr(limits, "ENDPOINT_OLD_WAIT_S", 0.0)
    assert endpoint.read().token == "t"


@pytest.mark.parametrize("mode", [0o755, 0o770])
def test_a_directory_that_others_may_use_is_not_believed(tmp_path: Path, runtime: Path, mode: int) -> None:
    publish(LaunchFile(runtime, "the launch"))
    runtime.chmod(mode)
    with pytest.raises(EndpointMissing):
        of_rank_1(tmp_path).read()


def test_rank_0_starts_its_own_daemon_whatever_the_host_has(tmp_path: Path, runtime: Path) -> None:
    publish(LaunchFile(runtime, "the launch"))
    file = LaunchFile(tmp_path / ".tracker", "the launch")
    daemon = FakeDaemon(file.path, "pass")
    with pytest.raises(EndpointPending, match="the daemon is starting"):
        EmbeddedEndpoint(file, daemon).read()
    assert daemon.starts == 1

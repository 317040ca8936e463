"""``start``: a daemon that is in the background, and ready, when the command returns."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

PATIENCE_S = 60.0


def command(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run tracker-daemon to its end. Its output is read to the end too, which nobody may hold open."""
    argv = [sys.executable, "-m", "tracker_daemon", *map(str, arguments)]
    return subprocess.run(argv, capture_output=True, text=True, timeout=PATIENCE_S, check=False)


@pytest.fixture
def state_dir(tmp_path: Path):
    yield tmp_path / "state"
    command("stop", "--state-dir", tmp_path / "state", "--timeout", 0)


def pid_of(state_dir: Path) -> int:
    return json.loads((state_dir / "endpoint.json").read_text())["pid"]


def descriptors_of(pid: int) -> dict[str, str]:
    found = {}
    for path in Path(f"/proc/{pid}/fd").iterdir():
        with suppress(FileNotFoundError):  # closed since, as the one that lists the directory
            found[path.name] = str(path.readlink())
    return found


def is_running(pid: int) -> bool:
    """Whether it has not ended; one that nobody has reaped yet has."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def processes_that_name(path: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(FileNotFoundError, ProcessLookupError):  # it has ended meanwhile
            if str(path).encode() in (process / "cmdline").read_bytes():
                found.append(int(process.name))
    return found


def test_start_returns_when_the_daemon_is_ready_and_leaves_it_tied_to_nobody(state_dir, tmp_path):
    started = command("start", "--daemonize", "--state-dir", state_dir, "--outdir", tmp_path)
    assert started.returncode == 0, started.stderr
    pid = pid_of(state_dir)
    assert f"daemon {pid} is ready" in started.stdout
    asked = command("status", "--json", "--state-dir", state_dir)
    assert json.loads(asked.stdout)["daemon"]["pid"] == pid
    session = os.getsid(pid)
    assert session not in (pid, os.getsid(0))  # no session's leader, so no terminal can become its own
    descriptors = descriptors_of(pid)
    log = str(state_dir / "daemon.log")
    assert [descriptors[number] for number in "012"] == ["/dev/null", log, log]
    ours = descriptors_of(os.getpid()).values()
    assert not any(target in ours for target in descriptors.values() if target.startswith("pipe:"))


def test_stop_ends_what_start_began_and_a_second_stop_is_no_error(state_dir, tmp_path):
    assert command("start", "--daemonize", "--state-dir", state_dir, "--outdir", tmp_path).returncode == 0
    pid = pid_of(state_dir)
    assert command("stop", "--state-dir", state_dir).returncode == 0
    wait_until(lambda: not is_running(pid), "the daemon's end")
    assert command("stop", "--state-dir", state_dir).returncode == 0


def test_a_daemon_that_cannot_start_fails_the_command_with_its_reason(state_dir, tmp_path):
    assert command("start", "--daemonize", "--state-dir", state_dir, "--outdir", tmp_path).returncode == 0
    first = pid_of(state_dir)
    second = command("start", "--daemonize", "--state-dir", state_dir, "--outdir", tmp_path)
    assert second.returncode == 1
    assert f"in use by the tracker-daemon with pid {first}" in second.stderr
    assert pid_of(state_dir) == first
    assert command("status", "--state-dir", state_dir).returncode == 0


def test_a_daemon_that_is_not_ready_in_time_fails_the_command_and_is_ended(state_dir, tmp_path):
    failed = command("start", "--daemonize", "--timeout", 0, "--state-dir", state_dir, "--outdir", tmp_path)
    assert failed.returncode == 1
    assert "not ready in time" in failed.stderr
    wait_until(
        lambda: not [pid for pid in processes_that_name(state_dir) if is_running(pid)], "the daemon's end"
    )


def test_the_end_of_the_starter_s_session_does_not_end_the_daemon(state_dir, tmp_path):
    argv = [sys.executable, "-m", "tracker_daemon", "start", "--daemonize"]
    argv += ["--state-dir", str(state_dir), "--outdir", str(tmp_path)]
    shell = subprocess.Popen(
        ["bash", "-c", '"$@" && echo started && exec sleep 600', "bash", *argv],
        stdout=subprocess.PIPE, text=True, start_new_session=True,
    )  # fmt: skip
    assert shell.stdout is not None
    assert any(line == "started\n" for line in shell.stdout)
    os.killpg(shell.pid, signal.SIGKILL)
    shell.communicate()
    assert command("status", "--state-dir", state_dir).returncode == 0

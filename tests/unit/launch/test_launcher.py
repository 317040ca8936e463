"""The run wrapper, with a fake daemon: its order of doing things, its signals and its exit status."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tracker_daemon.errors import CommandNotExecutable, CommandNotFound, DaemonStartError
from tracker_daemon.launch.attended_daemon import DaemonPlace
from tracker_daemon.launch.command_group import find_program
from tracker_daemon.launch.launcher import Launch, Launcher
from tracker_daemon.lifecycle.grace import ranks_share_s
from tracker_daemon.runs.launch_outcome import LaunchOutcome

FAKE_DAEMON = Path(__file__).parents[2] / "support" / "cli" / "fake_daemon.py"
DEADLINE_S = 20.0


def launch(directory: Path, *command: str, behaviours: tuple[str, ...] = (), **fields: object) -> Launch:
    state_dir = directory / "state"
    state_dir.mkdir(exist_ok=True)
    values = {
        "command": command,
        "daemon_argv": (
            sys.executable,
            str(FAKE_DAEMON),
            str(state_dir),
            str(state_dir / "endpoint.json"),
            *behaviours,
        ),
        "place": DaemonPlace(state_dir, state_dir / "endpoint.json", state_dir / "daemon.log"),
        "drain_timeout_s": 5.0,
        "environ": dict(os.environ),
    }
    return Launch(**(values | fields))  # type: ignore[arg-type]


def events(directory: Path) -> list[str]:
    path = directory / "state" / "events"
    return [line.split()[0] if line.startswith("started") else line for line in path.read_text().splitlines()]


def daemon_pid(directory: Path) -> int:
    lines = (directory / "state" / "events").read_text().splitlines()
    return int([line for line in lines if line.startswith("started")][-1].split()[1])


def end_daemon(directory: Path) -> None:
    if (directory / "state" / "events").exists() and is_running(daemon_pid(directory)):
        os.kill(daemon_pid(directory), signal.SIGKILL)


def is_running(pid: int) -> bool:
    return state(pid) not in {"", "Z"}


def state(pid: int) -> str:
    """The process's state as the kernel abbreviates it; empty when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


# ---- without signals, in this process ------------------------------------------------------------


@pytest.mark.parametrize(
    ("script", "status"), [("exit 0", 0), ("exit 7", 7), ("kill -TERM $$", 143), ("kill -KILL $$", 137)]
)
def test_the_status_is_the_commands_as_a_shell_counts_it(tmp_path: Path, script: str, status: int) -> None:
    assert Launcher(launch(tmp_path, "sh", "-c", script)).run() == status
    assert events(tmp_path) == ["started", "sigterm", "ended"]


def test_the_command_finds_its_daemon_and_no_other_in_its_environment(tmp_path: Path) -> None:
    outer = {
        "TRACKER_ENDPOINT": "elsewhere:1",
        "TRACKER_TOKEN": "t",
        "TRACKER_LAUNCH_ID": "outer",
        "OTHER": "kept",
    }
    script = "import json, os; json.dump(dict(os.environ), open('env.json', 'w'))"
    given = launch(
        tmp_path,
        sys.executable,
        "-c",
        f"import os; os.chdir({str(tmp_path)!r}); {script}",
        environ=dict(os.environ) | outer,
    )
    assert Launcher(given).run() == 0
    environ = json.loads((tmp_path / "env.json").read_text())
    assert environ["TRACKER_ENDPOINT_FILE"] == str(given.place.endpoint_file)
    assert environ["TRACKER_LAUNCH_ID"] == given.launch_id != "outer"
    assert environ["OTHER"] == "kept"
    assert "TRACKER_ENDPOINT" not in environ
    assert "TRACKER_TOKEN" not in environ


def test_each_launch_has_its_own_id(tmp_path: Path) -> None:
    assert launch(tmp_path, "true").launch_id != launch(tmp_path, "true").launch_id


def test_the_daemon_is_ready_before_the_command_starts_whatever_file_was_left(tmp_path: Path) -> None:
    given = launch(tmp_path, "sh", "-c", '! grep stale "$TRACKER_ENDPOINT_FILE"')
    given.place.endpoint_file.write_text('{"endpoint": "stale", "pid": 1}')
    assert Launcher(given).run() == 0


def test_the_commands_status_is_left_for_the_daemon_before_it_is_stopped(tmp_path: Path) -> None:
    given = launch(tmp_path, "sh", "-c", "exit 5")
    Launcher(given).run()
    outcome = LaunchOutcome.read(given.place.state_dir)
    assert (outcome.launch_id, outcome.exit_status) == (given.launch_id, 5)
    assert (outcome.starter_pid, outcome.program) == (os.getpid(), "sh")


def test_the_end_is_summed_up_from_the_daemons_last_status(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    given = launch(tmp_path, "true")
    (given.place.state_dir / "last-status.json").write_text(
        '{"daemon": {}, "runs": [{"run_id": "of an earlier daemon"}]}'
    )
    Launcher(given).run()
    shown = capfd.readouterr()
    assert shown.out == ""
    assert shown.err.splitlines() == [
        "tracker-daemon: run p/first: FINISHED, 10 records of 2 metrics",
        "tracker-daemon:   csv: 10 delivered → /out/metrics.csv",
    ]


def test_a_command_that_is_not_there_is_told_before_a_daemon_starts(tmp_path: Path) -> None:
    with pytest.raises(CommandNotFound, match="no-such-command"):
        Launcher(launch(tmp_path, "no-such-command")).run()
    assert not (tmp_path / "state" / "events").exists()


def test_a_file_that_is_no_program_is_told_as_such(tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text("echo")
    with pytest.raises(CommandNotExecutable, match="permission"):
        Launcher(launch(tmp_path, str(script))).run()


def test_a_command_in_a_directory_that_is_closed_to_the_user_cannot_be_executed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def closed(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "exists", closed)  # root, as whom tests may run, may enter every directory
    with pytest.raises(CommandNotExecutable, match="/closed/train"):
        find_program("/closed/train", "/bin")


def test_a_script_whose_interpreter_is_missing_leaves_no_daemon_behind(tmp_path: Path) -> None:
    script = tmp_path / "script.sh"
    script.write_text("#!/no/such/interpreter\n")
    script.chmod(0o755)
    with pytest.raises(CommandNotFound, match="interpreter"):
        Launcher(launch(tmp_path, str(script))).run()
    assert not is_running(daemon_pid(tmp_path))


def test_a_daemon_that_does_not_start_is_reported_with_its_own_last_words(tmp_path: Path) -> None:
    given = launch(tmp_path, "touch", str(tmp_path / "ran"), behaviours=("fail",))
    given.place.log_path.write_text("what an earlier daemon said\n")
    with pytest.raises(DaemonStartError, match="held by another daemon") as caught:
        Launcher(given).run()
    assert "earlier daemon" not in str(caught.value)
    assert not (tmp_path / "ran").exists()


def test_a_daemon_that_hangs_at_its_end_is_killed_and_the_journal_named(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker_daemon.launch.launcher.DRAIN_GRACE_S", 0.1)
    given = launch(tmp_path, "sh", "-c", "exit 3", behaviours=("hang",), drain_timeout_s=0.1)
    assert Launcher(given).run() == 3
    assert not is_running(daemon_pid(tmp_path))
    assert f"stays in the journal in {given.place.state_dir}" in capfd.readouterr().err


def test_a_daemon_that_dies_is_started_again_while_the_command_runs(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    script = textwrap.dedent("""
        kill -KILL "$(sed 's/.*"pid": \\([0-9]*\\).*/\\1/' "$TRACKER_ENDPOINT_FILE")"
        until [ "$(grep -c started "$(dirname "$TRACKER_ENDPOINT_FILE")/events")" = 2 ]; do sleep 0.02; done
    """)
    assert Launcher(launch(tmp_path, "sh", "-c", script)).run() == 0
    assert events(tmp_path) == ["started", "started", "sigterm", "ended"]
    assert "killed by SIGKILL" in capfd.readouterr().err


def test_a_daemon_that_died_at_the_very_end_is_started_again_to_deliver(tmp_path: Path) -> None:
    script = 'kill -KILL "$(sed \'s/.*"pid": \\([0-9]*\\).*/\\1/\' "$TRACKER_ENDPOINT_FILE")"'
    assert Launcher(launch(tmp_path, "sh", "-c", script)).run() == 0
    assert events(tmp_path) == ["started", "started", "sigterm", "ended"]


# ---- signals: the wrapper is a process of its own ------------------------------------------------

WRAPPER = """
import os, signal, sys
from pathlib import Path
for ignored in (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT):  # as in the background, or by nohup
    signal.signal(ignored, signal.SIG_DFL)
sys.path[:0] = {path!r}
from tracker_daemon.launch.attended_daemon import DaemonPlace
from tracker_daemon.launch.launcher import Launch, Launcher
state = Path({state!r})
sys.exit(Launcher(Launch(
    command=tuple({command!r}), daemon_argv=tuple({daemon!r}), drain_timeout_s=20.0,
    place=DaemonPlace(state, state / "endpoint.json", state / "daemon.log"),
    environ=os.environ, grace_s={grace_s!r},
)).run())
"""


class Wrapper:
    """A wrapper process around a command that logs the signals it gets to ``signals``."""

    def __init__(
        self,
        directory: Path,
        *command: str,
        behaviours: tuple[str, ...] = (),
        grace_s: float | None = None,
        **popen: object,
    ) -> None:
        self.directory = directory
        given = launch(directory, *command, behaviours=behaviours)
        script = WRAPPER.format(
            path=sys.path, state=str(given.place.state_dir), command=given.command, daemon=given.daemon_argv,
            grace_s=grace_s,
        )  # fmt: skip
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], **({"stderr": subprocess.PIPE, "text": True} | popen)
        )

    def send(self, number: signal.Signals) -> None:
        self.process.send_signal(number)

    def wait(self) -> int:
        return self.process.wait(DEADLINE_S)


@pytest.fixture
def wrapper(tmp_path: Path) -> Iterator[Callable[..., Wrapper]]:
    started: list[Wrapper] = []

    def start(*command: str, **options: object) -> Wrapper:
        started.append(Wrapper(tmp_path, *command, **options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            one.process.kill()
            one.process.wait()
        if one.process.stderr:
            one.process.stderr.close()
    end_daemon(tmp_path)


def recorder(directory: Path, *, ends_on: str) -> list[str]:
    """A command that notes each signal it gets in ``signals`` and ends, with status 9, on ``ends_on``."""
    script = f"""
import os, pathlib, signal, sys
pathlib.Path({str(directory / "pid")!r}).write_text(str(os.getpid()))
log = pathlib.Path({str(directory / "signals")!r})
def got(number, frame):
    with log.open("a") as file:
        file.write(signal.Signals(number).name + "\\n")
    if signal.Signals(number).name == {ends_on!r}:
        sys.exit(9)
for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2):
    signal.signal(number, got)
log.write_text("ready\\n")
while True:
    signal.pause()
"""
    return [sys.executable, "-c", script]


def signals_of(directory: Path) -> list[str]:
    path = directory / "signals"
    return path.read_text().splitlines() if path.exists() else []


@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM", "SIGHUP", "SIGUSR1", "SIGUSR2"])
def test_a_signal_is_passed_on_and_the_daemon_outlives_the_command(
    tmp_path: Path, wrapper: Callable[..., Wrapper], name: str
) -> None:
    run = wrapper(*recorder(tmp_path, ends_on=name))
    wait_until(lambda: signals_of(tmp_path) == ["ready"], "the command")
    run.send(signal.Signals[name])
    assert run.wait() == 9
    assert signals_of(tmp_path) == ["ready", name]
    assert events(tmp_path) == ["started", "sigterm", "ended"]


def test_a_signal_reaches_the_whole_group_of_the_command(
    tmp_path: Path, wrapper: Callable[..., Wrapper]
) -> None:
    child = tmp_path / "child"
    run = wrapper("sh", "-c", f"sleep 100 & echo $! > {child}.new; mv {child}.new {child}; wait")
    wait_until(child.exists, "the command's child")
    run.send(signal.SIGTERM)
    assert run.wait() == 128 + signal.SIGTERM
    wait_until(lambda: not is_running(int(child.read_text())), "the child's end")


def test_a_command_that_outstays_its_share_of_the_grace_is_killed_so_that_the_rest_is_delivered(
    tmp_path: Path, wrapper: Callable[..., Wrapper]
) -> None:
    run = wrapper(*recorder(tmp_path, ends_on="SIGINT"), grace_s=5.0)  # 3 s are the command's
    wait_until(lambda: signals_of(tmp_path) == ["ready"], "the command")
    run.send(signal.SIGTERM)
    assert run.wait() == 128 + signal.SIGKILL
    assert signals_of(tmp_path) == ["ready", "SIGTERM"]
    assert events(tmp_path) == ["started", "sigterm", "ended"]
    assert "the command has not ended on SIGTERM and is killed" in run.process.stderr.read()


@pytest.mark.parametrize(("grace_s", "share_s"), [(10, 6), (30, 20), (300, 290), (1, 0)])
def test_ranks_have_most_of_a_grace_and_delivering_has_the_rest(grace_s: float, share_s: float) -> None:
    assert ranks_share_s(grace_s) == share_s


@pytest.mark.parametrize(("grace_s", "share_s"), [(10, 4.5), (30, 18.5), (4, 1), (1, 0)])
def test_ranks_have_less_where_the_daemon_forwards(grace_s: float, share_s: float) -> None:
    assert ranks_share_s(grace_s, forwards=True) == share_s


def test_ctrl_c_while_delivering_leaves_at_once(tmp_path: Path, wrapper: Callable[..., Wrapper]) -> None:
    run = wrapper("sh", "-c", "exit 4", behaviours=("hang",))
    wait_until(
        lambda: (tmp_path / "state" / "events").exists() and "sigterm" in events(tmp_path), "the drain"
    )
    run.send(signal.SIGINT)
    assert run.wait() == 4  # the drain time alone is as long as we wait here
    assert not is_running(daemon_pid(tmp_path))
    assert "stays in the journal" in run.process.stderr.read()
    assert events(tmp_path) == ["started", "sigterm", "sigint"]


def test_sigterm_while_delivering_does_not_cut_it_short(
    tmp_path: Path, wrapper: Callable[..., Wrapper]
) -> None:
    run = wrapper("true", behaviours=("hang",))
    wait_until(
        lambda: (tmp_path / "state" / "events").exists() and "sigterm" in events(tmp_path), "the drain"
    )
    run.send(signal.SIGTERM)
    assert run.process.stderr.readline().startswith("tracker-daemon: delivering what is left")
    assert is_running(daemon_pid(tmp_path))


def test_a_signal_before_the_daemon_is_ready_ends_without_the_command(
    tmp_path: Path, wrapper: Callable[..., Wrapper]
) -> None:
    run = wrapper("touch", str(tmp_path / "ran"), behaviours=("never-ready",))
    wait_until((tmp_path / "state" / "events").exists, "the daemon")
    run.send(signal.SIGINT)
    assert run.wait() == 128 + signal.SIGINT
    assert not (tmp_path / "ran").exists()
    assert not is_running(daemon_pid(tmp_path))


def test_the_daemon_ends_when_the_wrapper_is_killed(tmp_path: Path, wrapper: Callable[..., Wrapper]) -> None:
    run = wrapper(*recorder(tmp_path, ends_on="SIGTERM"))
    wait_until(lambda: signals_of(tmp_path) == ["ready"], "the command")
    run.send(signal.SIGKILL)
    run.wait()
    wait_until(lambda: not is_running(daemon_pid(tmp_path)), "the daemon's end")
    assert "stdin closed" in events(tmp_path)
    os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)


# ---- the terminal --------------------------------------------------------------------------------


class Terminal:
    """A pseudo-terminal whose session's leader is a wrapper."""

    def __init__(self, directory: Path, *command: str) -> None:
        self.leader, follower = pty.openpty()
        # The session's leader takes the terminal as its controlling one, as a login does.
        given = launch(directory, *command)
        script = (
            "import fcntl, termios, os\nos.setsid()\nfcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
            + WRAPPER.format(
                path=sys.path,
                state=str(given.place.state_dir),
                command=given.command,
                daemon=given.daemon_argv,
                grace_s=None,
            )
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", script], stdin=follower, stdout=follower, stderr=subprocess.DEVNULL
        )
        os.close(follower)

    def type(self, text: bytes) -> None:
        os.write(self.leader, text)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        os.close(self.leader)


@pytest.fixture
def terminal(tmp_path: Path) -> Iterator[Callable[..., Terminal]]:
    opened: list[Terminal] = []

    def start(*command: str) -> Terminal:
        opened.append(Terminal(tmp_path, *command))
        return opened[-1]

    yield start
    for one in opened:
        one.close()
    end_daemon(tmp_path)


def test_on_a_terminal_ctrl_c_is_the_commands_alone(
    tmp_path: Path, terminal: Callable[..., Terminal]
) -> None:
    session = terminal(*recorder(tmp_path, ends_on="SIGINT"))
    wait_until(lambda: signals_of(tmp_path) == ["ready"], "the command")
    session.type(b"\x03")
    assert session.process.wait(DEADLINE_S) == 9
    assert signals_of(tmp_path) == ["ready", "SIGINT"]
    assert events(tmp_path) == ["started", "sigterm", "ended"]


def test_on_a_terminal_the_command_reads_what_is_typed(
    tmp_path: Path, terminal: Callable[..., Terminal]
) -> None:
    session = terminal("sh", "-c", f"read line; echo $line > {tmp_path}/typed")
    wait_until((tmp_path / "state" / "endpoint.json").exists, "the daemon")
    session.type(b"hello\n")
    assert session.process.wait(DEADLINE_S) == 0
    assert (tmp_path / "typed").read_text() == "hello\n"


def test_on_a_terminal_ctrl_z_stops_the_wrapper_too_and_both_go_on(
    tmp_path: Path, terminal: Callable[..., Terminal]
) -> None:
    session = terminal(*recorder(tmp_path, ends_on="SIGINT"))
    wait_until(lambda: signals_of(tmp_path) == ["ready"], "the command")
    command = int((tmp_path / "pid").read_text())
    session.type(b"\x1a")
    wait_until(lambda: state(session.process.pid) == state(command) == "T", "the stop")
    session.process.send_signal(signal.SIGCONT)
    wait_until(lambda: state(command) != "T", "the command to go on")
    session.type(b"\x03")
    assert session.process.wait(DEADLINE_S) == 9

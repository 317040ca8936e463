"""The commands: their options, output and exit status."""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
import typer

from tracker_daemon.cli import main
from tracker_daemon.cli.application import COMMANDS, application
from tracker_daemon.cli.process_watch import ProcessWatch
from tracker_daemon.endpoints.endpoint_file import ENDPOINT_FILE_NAME
from tracker_daemon.launch.launcher import Launch
from tracker_daemon.settings.definitions import Settings, flag_of, variable_of
from tracker_daemon.settings.loading import load
from tracker_daemon.version import VERSION
from tracker_protocol.v1 import tracker_pb2 as pb

OTHER_VALUES = {
    "tls": "true",
    "token": "long enough to be a token",
    "upstream_token": "long enough to be a token",
    "listen": "127.0.0.1:7",
    "backends": "memory",
    "record_ranks": "0-3",
    "item_ranks": "0-3",
    "reporters": "lr=all",
    "aggregates": "lr=none",
    "step_axes": "eval/*=epoch",
    "summaries": "loss=min",
    "thinning": "mlflow:*=10",
    "config_may_differ": "rank",
    "system_prefix": "ezpz",
    "mlflow_own_name": "local",
    "log_level": "error",
    "log_format": "json",
    "commit_window_s": "0.5",
    "flush_interval_s": "0.5",
}
NAMES = sorted(set(Settings.model_fields) - {"config"})


def other_value(name: str) -> str:
    """A value of the setting that is not its default."""
    return OTHER_VALUES.get(name, "/some/where" if name.endswith(("_dir", "_file", "outdir")) else "77")


def flags(name: str) -> list[str]:
    """The command line that gives it that value; a switch takes none."""
    return (
        [flag_of(name)] if isinstance(getattr(load({}), name), bool) else [flag_of(name), other_value(name)]
    )


def exit_status(*argv: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    return int(caught.value.code or 0)


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in [name for name in os.environ if name.startswith("TRACKER_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path / "service"))
    monkeypatch.setenv("COLUMNS", "300")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_is_there_on_its_own_and_in_the_list(
    command: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert exit_status(command, "--help") == 0
    assert f" {command} [OPTIONS]" in capsys.readouterr().out
    assert exit_status("--help") == 0
    assert f" {command} " in capsys.readouterr().out


def test_a_mistyped_command_is_refused_with_the_one_that_is_meant(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert exit_status("stauts") == 2
    assert "No such command 'stauts'. Did you mean 'status'" in capsys.readouterr().err


def test_asking_a_daemon_imports_nothing_that_serves_or_shows_tables() -> None:
    program = (
        "import atexit, sys; from tracker_daemon.cli import main; "
        "heavy = ('numpy', 'sqlite3', 'structlog', 'rich', 'tracker_daemon.settings.definitions'); "
        "atexit.register(lambda: print([name for name in heavy if name in sys.modules])); "
        "main(['stop'])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "nothing to stop" in done.stderr
    assert done.stdout == "[]\n"


@pytest.fixture
def served(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[Settings]]:
    """The settings that a daemon was started with, instead of the daemon."""
    started: list[Settings] = []
    module = types.ModuleType("tracker_daemon.daemon")
    module.serve = lambda settings, **_: started.append(settings) or 5  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "tracker_daemon.daemon", module)
    monkeypatch.setattr("tracker_daemon.daemon", module, raising=False)
    monkeypatch.setattr("tracker_daemon.logs.configure", lambda *_: None)
    return started


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[Launch]:
    """The launches that would have run."""
    launches: list[Launch] = []

    class NoLauncher:
        def __init__(self, launch: Launch) -> None:
            launches.append(launch)

        def run(self) -> int:
            return 6

    monkeypatch.setattr("tracker_daemon.cli.running.Launcher", NoLauncher)
    return launches


# ---- serve and run -------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_a_flag_and_a_variable_of_serve(
    name: str, served: list[Settings], monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = getattr(load({name: other_value(name)}), name)
    assert expected != getattr(load({}), name)
    assert exit_status("serve", *flags(name)) == 5
    monkeypatch.setenv(variable_of(name), other_value(name))
    assert exit_status("serve") == 5
    assert [getattr(settings, name) for settings in served] == [expected, expected]


@pytest.mark.parametrize("name", NAMES)
def test_every_setting_is_a_flag_of_run_and_reaches_the_daemon(
    name: str, served: list[Settings], launched: list[Launch]
) -> None:
    assert exit_status("run", *flags(name), "--", "true") == 6
    argv = launched[0].daemon_argv
    exit_status(
        *argv[argv.index("serve") :][:1],
        *[word for word in argv[argv.index("serve") + 1 :] if word != "--until-stdin-closes"],
    )
    assert getattr(served[0], name) == getattr(load({name: other_value(name)}), name)


def test_settings_of_the_environment_and_the_file_reach_the_daemon_of_run(
    served: list[Settings], launched: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "t.toml").write_text('backends = "memory"\ndrain_timeout_s = 3\n')
    monkeypatch.setenv("TRACKER_OUTDIR", "runs/a")
    exit_status("run", "--config", "t.toml", "true")
    assert launched[0].place.state_dir == tmp_path / "runs" / "a" / ".tracker"
    assert launched[0].drain_timeout_s == 3.0
    assert f"--outdir={tmp_path}/runs/a" in launched[0].daemon_argv
    assert "--config=t.toml" in launched[0].daemon_argv


def test_run_keeps_its_state_with_the_output_and_what_follows_the_command_is_the_commands(
    launched: list[Launch], tmp_path: Path
) -> None:
    exit_status("run", "--outdir", "o", "python", "train.py", "--outdir", "theirs", "--help")
    [launch] = launched
    assert launch.command == ("python", "train.py", "--outdir", "theirs", "--help")
    assert launch.place.state_dir == tmp_path / "o" / ".tracker"
    assert launch.place.endpoint_file == launch.place.state_dir / ENDPOINT_FILE_NAME
    assert launch.place.log_path == launch.place.state_dir / "daemon.log"


def test_a_run_within_a_run_does_not_write_over_the_outer_endpoint_file(
    launched: list[Launch], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKER_ENDPOINT_FILE", str(tmp_path / "outer.json"))
    exit_status("run", "true")
    monkeypatch.setenv("TRACKER_LAUNCH_ID", "outer")
    exit_status("run", "true")
    assert [launch.place.endpoint_file for launch in launched] == [
        tmp_path / "outer.json",
        tmp_path / "tracker-runs" / ".tracker" / ENDPOINT_FILE_NAME,
    ]


def test_modules_of_the_working_directory_do_not_shadow_the_daemons(
    launched: list[Launch], tmp_path: Path
) -> None:
    (tmp_path / "selectors.py").write_text("raise SystemExit('shadowed')")
    exit_status("run", "true")
    shown = subprocess.run(
        [*launched[0].daemon_argv[:-1], "--help"], capture_output=True, text=True, check=True
    )
    assert "Usage" in shown.stdout


def test_a_run_without_a_command_is_a_misuse(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_status("run") == 2
    assert "CMD" in capfd.readouterr().err


def test_an_unusable_setting_is_one_line_and_status_2(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_status("serve", "--learn-wait-s", "soon") == 2
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith('error: learn_wait_s = "soon" (flag --learn-wait-s): ')


def test_a_command_that_is_missing_is_status_127_and_no_program_126(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").write_text("")
    assert exit_status("run", "--", "no-such-command") == 127
    assert exit_status("run", "--", "./file") == 126
    assert [line.startswith("error: the command ") for line in capfd.readouterr().err.splitlines()] == [
        True,
        True,
    ]


@pytest.mark.parametrize("command", sorted({*COMMANDS} - {"doctor"}))
def test_help_has_examples(command: str, capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_status(command, "--help") == 0
    assert f"tracker-daemon {command}" in capfd.readouterr().out.partition("Example")[2]


def test_the_overview_has_each_command_with_the_first_line_of_its_help() -> None:
    whole = typer.main.get_command(application(*COMMANDS)).commands
    assert {name: command.help.split("\n\n")[0] for name, command in whole.items()} == {
        name: command.summary for name, command in COMMANDS.items()
    }
    overview = typer.main.get_command(application()).commands
    assert {name: command.help for name, command in overview.items()} == {
        name: command.summary for name, command in COMMANDS.items()
    }


@pytest.mark.parametrize("asked", ["--version", "--help", "-h"])
def test_version_and_overview_need_none_of_the_daemon(asked: str) -> None:
    script = (
        "import sys; from tracker_daemon.cli import main\n"
        "try: main(sys.argv[1:])\n"
        "except SystemExit as ended: print(ended.code, *sorted(sys.modules), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, asked], capture_output=True, text=True, check=True, timeout=60
    )
    status, *modules = done.stderr.split()
    assert status in ("0", "None")
    assert not {"grpc", "pydantic", "numpy", "structlog", "tracker_client"} & set(modules)
    assert ("tracker-daemon 0." if asked == "--version" else "check-config") in done.stdout


def test_version_is_that_of_the_installed_distribution(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_status("--version") == 0
    assert capfd.readouterr().out == f"tracker-daemon {VERSION}\n"


def test_a_shell_completes_the_options_of_a_command() -> None:
    words = {"COMP_WORDS": "tracker-daemon status --w", "COMP_CWORD": "2"}
    asked = {**os.environ, **words, "_TRACKER_DAEMON_COMPLETE": "complete_bash"}
    script = "import sys; sys.argv[0] = 'tracker-daemon'; from tracker_daemon.cli import main; main([])"
    done = subprocess.run(
        [sys.executable, "-c", script], env=asked, capture_output=True, text=True, check=True, timeout=60
    )
    assert done.stdout.split() == ["--watch"]


def test_help_shows_every_setting(capfd: pytest.CaptureFixture[str]) -> None:
    exit_status("serve", "--help")
    shown = capfd.readouterr().out
    assert all(flag_of(name) in shown for name in Settings.model_fields)
    assert "--until-stdin-closes" not in shown


def test_help_shows_globs_of_a_default_with_their_asterisks(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    exit_status("serve", "--help")
    assert "rank,*_rank,host" in capfd.readouterr().out


@pytest.mark.parametrize("command", [("serve",), ("start",), ("run",)])
def test_a_backend_that_is_not_there_is_refused_before_anything_starts(
    command: tuple[str, ...], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    trained = tmp_path / "trained"
    rest = ("--", "touch", str(trained)) if command == ("run",) else ()
    assert exit_status(*command, "--backends", "csvv", "--outdir", str(tmp_path / "out"), *rest) == 2
    assert capfd.readouterr().err.startswith(
        "error: flag --backends: there is no backend 'csvv' (did you mean 'csv'?); there are: csv, "
    )
    assert list(tmp_path.iterdir()) == []


def test_a_backend_of_the_environment_may_be_a_script_s_own_class(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKER_BACKENDS", "mine")
    assert exit_status("run", "--outdir", str(tmp_path / "out"), "--", "true") == 0


# ---- check-config --------------------------------------------------------------------------------


def test_check_config_prints_a_file_with_the_same_settings(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "given.toml").write_text(
        'record_ranks = "0,8-15"\nlisten = ["[::1]:0", "unix:/s"]\noutdir = "/o"\n'
    )
    monkeypatch.setenv("TRACKER_LEARN_WAIT_S", "2.5")
    assert exit_status("check-config", "given.toml") == 0
    shown = capfd.readouterr().out
    (tmp_path / "printed.toml").write_text(shown)
    monkeypatch.delenv("TRACKER_LEARN_WAIT_S")
    printed = load({"config": "printed.toml"}).model_dump(exclude={"config"})
    assert printed == load({"config": "given.toml", "learn_wait_s": "2.5"}).model_dump(exclude={"config"})
    sources = {line.split()[0]: line.rpartition("# ")[2] for line in shown.splitlines()}
    assert sources["learn_wait_s"] == "environment TRACKER_LEARN_WAIT_S"
    assert sources["record_ranks"] == f"file {tmp_path}/given.toml"
    assert sources["primary_rank"] == "default"


def test_check_config_masks_secrets(
    capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRACKER_BACKENDS", "https://me:pa55word@host")
    exit_status("check-config")
    assert "pa55word" not in capfd.readouterr().out


def test_check_config_refuses_what_serve_would_refuse(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "t.toml").write_text("learn_wait = 1\n")
    assert exit_status("check-config", "t.toml") == 2
    assert "did you mean 'learn_wait_s'?" in capfd.readouterr().err


# ---- status, wait and stop -----------------------------------------------------------------------


@pytest.fixture
def endpoint_file(server: Any, tmp_path: Path) -> Path:
    path = tmp_path / "endpoint.json"
    server.info.write_atomically(path)
    return path


def test_status_prints_tables_or_the_document_itself(
    server: Any, endpoint_file: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    server.document = '{"daemon":{"version":"9.9"},"runs":[],"invented":1}'
    assert exit_status("status", "--json", "--endpoint-file", str(endpoint_file)) == 0
    assert capfd.readouterr().out == server.document + "\n"
    assert exit_status("status", "--endpoint-file", str(endpoint_file)) == 0
    assert "tracker-daemon 9.9" in capfd.readouterr().out


def test_status_without_a_daemon_is_one_line_and_status_1(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_status("status") == 1
    [line] = capfd.readouterr().err.splitlines()
    assert line.startswith("error: no daemon is known here")


def test_status_watch_follows_a_daemon_until_ctrl_c(
    server: Any, endpoint_file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker_daemon.cli.observing.WATCH_INTERVAL_S", 0.01)
    asked = itertools.count(1)
    over = threading.Event()

    def answer_thrice_then_interrupt(*_: object) -> pb.StatusReply:
        if next(asked) % 4 == 0:
            signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)
            over.wait(20)
        return pb.StatusReply(json=server.document)

    server.status = answer_thrice_then_interrupt
    try:
        assert exit_status("status", "--watch", "--json", "--endpoint-file", str(endpoint_file)) == 0
        assert [json.loads(line)["runs"] for line in capfd.readouterr().out.splitlines()] == [[], [], []]
        assert exit_status("status", "--watch", "--endpoint-file", str(endpoint_file)) == 0
        assert "No run yet" in capfd.readouterr().out
    finally:
        over.set()


def test_wait_returns_once_the_daemon_has_written_its_file(server: Any, tmp_path: Path) -> None:
    path = tmp_path / "later" / "endpoint.json"
    failed = threading.Event()

    def come_up() -> None:
        failed.wait(0.2)
        server.info.write_atomically(path)

    starter = threading.Thread(target=come_up)
    starter.start()
    assert exit_status("wait", "--ready", "--timeout", "20", "--endpoint-file", str(path)) == 0
    starter.join()


def test_wait_gives_up_with_the_reason(capfd: pytest.CaptureFixture[str]) -> None:
    assert exit_status("wait", "--ready", "--timeout", "0", "--state-dir", "/nowhere") == 1
    assert "no daemon was ready within 0 s: there is no endpoint file /nowhere" in capfd.readouterr().err


@pytest.fixture
def daemon_process() -> Iterator[subprocess.Popen[bytes]]:
    """A process that a stopped daemon would be; it ends, and is not reaped, when it is told to."""
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield process
    process.kill()
    process.communicate()


def test_stop_waits_until_the_process_is_gone(
    server: Any, endpoint_file: Path, daemon_process: subprocess.Popen[bytes]
) -> None:
    here = msgspec.structs.replace(server.info, pid=daemon_process.pid, host=socket.gethostname())
    here.write_atomically(endpoint_file)
    told = threading.Event()
    server.on_stop = told.set

    def end_after_the_answer() -> None:
        told.wait()
        daemon_process.stdin.write(b"\n")
        daemon_process.stdin.flush()

    helper = threading.Thread(target=end_after_the_answer)
    helper.start()
    assert exit_status("stop", "--endpoint-file", str(endpoint_file)) == 0
    helper.join()
    assert Path(f"/proc/{daemon_process.pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"


def test_stop_of_a_daemon_elsewhere_waits_until_it_answers_no_more(server: Any, endpoint_file: Path) -> None:
    server.on_stop = lambda: threading.Thread(target=server.server.stop, args=(None,)).start()
    assert exit_status("stop", "--timeout", "1.5", "--endpoint-file", str(endpoint_file)) == 0
    assert server.drain_timeouts == [1.5]


def test_stop_of_a_daemon_that_does_not_end_fails(
    server: Any, endpoint_file: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tracker_daemon.cli.observing.STOP_GRACE_S", 0.2)
    assert exit_status("stop", "--timeout", "0", "--endpoint-file", str(endpoint_file)) == 1
    assert "still delivering" in capfd.readouterr().err


def test_stop_without_a_daemon_is_no_error(
    tmp_path: Path, closed_port: int, server: Any, capfd: pytest.CaptureFixture[str]
) -> None:
    assert exit_status("stop", "--state-dir", "/nowhere") == 0
    left = msgspec.structs.replace(server.info, endpoint=f"127.0.0.1:{closed_port}", endpoints=())
    left.write_atomically(tmp_path / "left.json")
    assert exit_status("stop", "--endpoint-file", str(tmp_path / "left.json")) == 0
    assert [line.partition(":")[0] for line in capfd.readouterr().err.splitlines()] == ["nothing to stop"] * 2


def test_a_process_watch_without_pidfd_sees_the_end_too(
    daemon_process: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delattr(os, "pidfd_open", raising=False)
    watch = ProcessWatch(daemon_process.pid)
    assert not watch.wait(0.0)
    daemon_process.communicate(b"\n")
    assert watch.wait(20.0)
    watch.close()

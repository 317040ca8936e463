"""Where a daemon keeps the files of runs, and what the ranks know of it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import tracker_client
from tests.support.daemon import Daemon
from tests.support.waiting import wait_until

SCRIPT = """
import json, sys
from tracker_client import setup_tracker
arguments = json.loads(sys.argv[1])
with setup_tracker("my project", backends="csv", **arguments) as tracker:
    tracker.log({"x": 0.5}, step=0)
    print(json.dumps([tracker.run_id, tracker.attempt, str(tracker.directory)]), flush=True)
    tracker.finish(wait="delivered")
"""


def record(daemon: Daemon, **arguments: str) -> tuple[str, int, str]:
    command = [sys.executable, "-c", SCRIPT, json.dumps({"endpoint": str(daemon.endpoint_file), **arguments})]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
    run_id, attempt, directory = json.loads(done.stdout)
    return run_id, attempt, directory


def shown(daemon: Daemon) -> dict[str, Path]:
    """Return the directory of each run by the status, which names one directory and file for it."""
    found = {}
    for run in daemon.status()["runs"]:
        directory = Path(run["directory"])
        (csv,) = run["backends"]
        assert (csv["name"], csv["location"]) == ("csv", str(directory / "metrics.csv"))
        found[run["run_id"]] = directory
    return found


def read_when_closed(directory, count: int) -> list[tracker_client.recorded.RecordedRun]:
    """The runs below a directory, once all of them are recorded in full; the newest first."""
    wait_until(
        lambda: [run.is_closed for run in tracker_client.runs(directory)] == [True] * count, "the runs' end"
    )
    return tracker_client.runs(directory)


@pytest.fixture
def started(tmp_path):
    daemons = []

    def start(layout: str) -> Daemon:
        daemon = Daemon(tmp_path / layout, layout=layout)
        daemon.home.mkdir()
        daemons.append(daemon.start())
        return daemon

    yield start
    for daemon in daemons:
        daemon.stop()


def test_a_named_directory_has_the_latest_run_and_a_resumed_run_goes_on_where_it_was_moved(started) -> None:
    daemon = started("base")
    out = str(daemon.outdir)
    assert record(daemon, run_id="first") == ("first", 1, out)
    assert record(daemon, run_id="second") == ("second", 1, out)
    moved = daemon.directory_of("first")
    assert (moved.parent, moved.name[15:]) == (daemon.outdir / "runs", "-first")
    assert shown(daemon) == {"first": moved, "second": daemon.outdir}
    assert record(daemon, run_id="first") == ("first", 2, str(moved))
    assert [row["attempt"] for row in daemon.rows(moved)] == ["", "2"]
    assert len(daemon.rows()) == 1
    second, first = read_when_closed(daemon.outdir, 2)
    assert (first.run_id, first.directory, first.attempt, first.state) == ("first", moved, 2, "FINISHED")
    assert (second.run_id, second.directory, second.state) == ("second", daemon.outdir, "FINISHED")
    assert [one.location for one in first.backends] == [str(moved / "metrics.csv")]
    named = daemon.home / "named by the script"
    assert record(daemon, run_id="third", outdir=str(named)) == ("third", 1, str(named))


def test_a_service_has_a_directory_for_each_project_and_run(started) -> None:
    daemon = started("project")
    for name in ("one", "two"):
        run_id, _, directory = record(daemon, name=name)
        assert directory == str(daemon.directory_of(run_id))
        found = daemon.directory_of(run_id)
        assert (found.parent, found.name[15:]) == (daemon.outdir / "my_project", f"-{name}")
        assert (found.parent / "latest").resolve() == found
        assert len(daemon.rows(found)) == 1
    runs = read_when_closed(daemon.outdir, 2)
    assert [(run.name, run.project, run.world_size, run.last_step) for run in runs] == [
        ("two", "my project", 1, 0),
        ("one", "my project", 1, 0),
    ]


def test_a_run_whose_daemon_was_killed_is_listed_as_interrupted(started) -> None:
    daemon = started("base")
    script = SCRIPT.replace("    tracker.finish", "    sys.stdin.readline()\n    tracker.finish")
    arguments = json.dumps({"endpoint": str(daemon.endpoint_file)})
    with subprocess.Popen(
        [sys.executable, "-c", script, arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as rank:
        assert rank.stdout.readline()
        wait_until(lambda: tracker_client.runs(daemon.outdir), "the run's directory")
        assert [run.state for run in tracker_client.runs(daemon.outdir)] == ["RUNNING"]
        daemon.kill()
        assert [run.state for run in tracker_client.runs(daemon.outdir)] == ["INTERRUPTED"]
        daemon.start()
        rank.communicate(b"go\n", timeout=120)
    assert [run.state for run in read_when_closed(daemon.outdir, 1)] == ["FINISHED"]

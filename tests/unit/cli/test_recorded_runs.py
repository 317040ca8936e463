"""``ls``, ``show``, ``tag`` and ``rm``: what they print, and what they refuse."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys

import pytest

from tracker_daemon.cli import main
from tracker_daemon.files.layout import Layout
from tracker_daemon.files.manifest import add_files, add_to_manifest
from tracker_daemon.files.run_directory import RunPlace, claim_directory, close_directory
from tracker_daemon.files.run_story import beginning, ending, tell_backend
from tracker_daemon.status.document import (
    BackendStatus,
    DaemonStatus,
    RunStatusEntry,
    StatusDocument,
    write_last,
)
from tracker_protocol.host_processes import pid_space

NS = 1_000_000_000
METRICS = "step,loss,loss/mean,loss/min,loss/max,loss/std\n0,2.5,3.0,2.5,3.5,0.5\n7,0.25,1.0,0.25,2.0,0.5\n"


@pytest.fixture
def recorded(tmp_path, monkeypatch):
    """Two runs: ``k1``, digits, ended; ``k2``, [wandb] *, which this process still writes."""
    monkeypatch.chdir(tmp_path)
    base, state_dir = tmp_path / "tracker-runs", tmp_path / "tracker-runs/.tracker"
    state_dir.mkdir(parents=True)
    for at_s, (run_id, name) in enumerate((("k1", "digits"), ("k2", "[wandb] *"))):
        place = RunPlace(base, run_id, f"20260102-00000{at_s}-{run_id}", Layout.NAME)
        story = beginning(name, (at_s + 1) * NS, world_size=2, state_dir=state_dir)
        path = claim_directory(place, story).path
        (path / "metrics.csv").write_text(METRICS)
        (path / "config.json").write_text('{"lr": 0.1, "net": {"width": 3}}')
        add_files(path, ["config.json"])
        tell_backend(path, run_id, "mlflow", "experiment p", {"url": f"http://mlflow/{run_id}"})
        if run_id == "k1":
            end = ending("FAILED", "rank 1 lost", 5 * NS, attempt=1, world_size=2, last_step=7)
            close_directory(path, run_id, end)
    return base


def run(capsys, *arguments):
    """The exit status of a command, and what it printed."""
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    printed = capsys.readouterr()
    return ended.value.code or 0, printed.out, printed.err


def test_ls_has_a_line_for_each_run_the_newest_first_and_cuts_no_path(recorded, capsys):
    status, out, _ = run(capsys, "ls")
    assert status == 0
    title, newest, oldest = out.splitlines()
    assert title.split("  ")[0] == "NAME"
    assert newest.startswith("[wandb] *")
    assert "RUNNING" in newest
    assert oldest.split()[:5] == ["digits", "k1", "FAILED", "7", "2"]
    assert str(recorded / "20260102-000000-k1") in oldest


def test_ls_as_json_has_everything_of_each_run(recorded, capsys):
    _, out, _ = run(capsys, "ls", "tracker-runs", "--json")
    _, first = json.loads(out)
    assert first["directory"] == str(recorded / "20260102-000000-k1")
    assert (first["run_id"], first["name"], first["state"], first["reason"], first["last_step"]) == (
        "k1", "digits", "FAILED", "rank 1 lost", 7,
    )  # fmt: skip
    assert first["backends"]["mlflow"]["url"] == "http://mlflow/k1"
    assert first["size_bytes"] > len(METRICS)


def test_ls_where_no_run_is_says_so(tmp_path, capsys):
    status, out, err = run(capsys, "ls", str(tmp_path))
    assert (status, out) == (0, "")
    assert err == f"no run is recorded in {tmp_path} or below\n"


def test_show_has_the_configuration_the_final_values_the_files_and_the_links(recorded, capsys):
    _, out, _ = run(capsys, "show", "digits")
    lines = [" ".join(line.split()) for line in out.splitlines()]
    assert "run digits (k1)" in lines
    assert "state FAILED: rank 1 lost" in lines
    assert "mlflow http://mlflow/k1" in lines
    assert "net.width 3" in lines
    assert "loss 7 0.25 1 0.25 2 0.5" in lines
    assert any(line.startswith("metrics.csv ") for line in lines)


def test_show_as_json_has_the_same(recorded, capsys):
    _, out, _ = run(capsys, "show", "k1", "--in", str(recorded), "--json")
    found = json.loads(out)
    assert found["config"] == {"lr": 0.1, "net": {"width": 3}}
    assert found["final"]["loss"] == {
        "step": 7,
        "value": 0.25,
        "mean": 1.0,
        "min": 0.25,
        "max": 2.0,
        "std": 0.5,
    }
    assert found["files"] == ["config.json", "metrics.csv"]


def test_a_run_that_is_not_there_is_an_error_that_lists_those_that_are(recorded, capsys):
    status, _, err = run(capsys, "show", "nosuch")
    assert status == 1
    assert err.startswith(f"error: no run in {recorded.parent} matches 'nosuch'; there are k2 ([wandb] *, ")


def test_tags_are_added_once_and_removed(recorded, capsys):
    run(capsys, "tag", "k1", "baseline", "good", "good")
    run(capsys, "tag", "k1", "baseline", "[x]")
    assert run(capsys, "ls")[1].splitlines()[2].count("good baseline [x]") == 1
    run(capsys, "tag", "k1", "--remove", "good", "never given")
    assert json.loads(run(capsys, "show", "k1", "--json")[1])["tags"] == ["baseline", "[x]"]


def test_a_tag_that_no_line_can_show_is_refused(recorded, capsys):
    for tag in ("", "a\nb", "x" * 65):
        status, _, err = run(capsys, "tag", "k1", tag)
        assert status == 2
        assert "printable characters" in " ".join(err.split())


def test_rm_removes_an_ended_run_after_asking(recorded, capsys, monkeypatch):
    monkeypatch.setattr("sys.stdin", io.StringIO("n\n"))
    assert run(capsys, "rm", "k1")[0] == 1
    assert (recorded / "20260102-000000-k1").exists()
    status, _, err = run(capsys, "rm", "k1", "--yes")
    assert status == 0
    assert "removed run k1: 2 files" in err
    assert not (recorded / "20260102-000000-k1").exists()


def test_rm_refuses_a_run_that_still_runs(recorded, capsys):
    status, _, err = run(capsys, "rm", "k2", "--yes")
    assert status == 1
    assert "has not ended" in err
    assert (recorded / "20260102-000001-k2/metrics.csv").exists()


def test_rm_of_an_interrupted_run_names_the_command_that_ends_it(recorded, capsys):
    path = recorded / "20260102-000001-k2"
    here = {"pid": os.getpid(), "pid_space": pid_space(), "start_ticks": -1}
    add_to_manifest(path, run={**here, "state_dir": str(recorded / ".tracker")})
    status, _, err = run(capsys, "rm", "k2", "--yes")
    assert status == 1
    assert err == (
        f"error: run k2 was interrupted; first end it with: tracker-daemon sync {recorded}/.tracker\n"
    )
    assert (path / "metrics.csv").exists()


def test_rm_refuses_a_run_that_a_backend_does_not_have_in_full_and_names_the_command(recorded, capsys):
    pending = (BackendStatus(name="mlflow", pending=3), BackendStatus(name="csv"))
    document = StatusDocument(daemon=DaemonStatus(), runs=(RunStatusEntry(run_id="k1", backends=pending),))
    write_last(recorded / ".tracker", document)
    status, _, err = run(capsys, "rm", "k1", "--yes")
    assert status == 1
    assert err == (
        "error: run k1 is not delivered in full: 3 records for mlflow; "
        f"tracker-daemon sync {recorded / '.tracker'}\n"
    )
    assert (recorded / "20260102-000000-k1/metrics.csv").exists()


def test_names_with_brackets_are_shown_as_they_are(recorded, capsys):
    path = recorded / "20260102-000000-k1"
    (path / "metrics.csv").write_text("step,acc[top],[/b]\n0,1,[red]\n")
    (path / "[bold].csv").touch()
    add_files(path, ["[bold].csv"])
    status, out, _ = run(capsys, "show", "k1")
    assert status == 0
    assert all(text in out for text in ("acc[top]", "[/b]", "[red]", "[bold].csv"))


def test_a_path_that_is_no_text_is_printed_with_its_bytes_as_numbers(recorded, tmp_path):
    (recorded / "20260102-000000-k1").rename(tmp_path / os.fsdecode(b"b\xff"))
    for arguments in (["ls"], ["ls", "--json"], ["show", "k1"], ["show", "k1", "--json"]):
        command = [sys.executable, "-m", "tracker_daemon", *arguments]
        done = subprocess.run(command, cwd=tmp_path, capture_output=True, check=False, timeout=60)
        assert (done.returncode, done.stderr) == (0, b"")
        assert b"udcff" in done.stdout


def test_a_terminal_of_few_characters_shows_a_run(recorded, tmp_path):
    command = [sys.executable, "-m", "tracker_daemon", "show", "k1"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, check=False, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert b"digits (k1)" in done.stdout


@pytest.mark.parametrize("file", ["metrics.csv", "config.json"])
def test_a_file_that_cannot_be_read_is_named_in_one_line(recorded, capsys, file):
    path = recorded / "20260102-000000-k1" / file
    path.unlink()
    path.mkdir()
    status, out, err = run(capsys, "show", "k1")
    assert (status, out) == (1, "")
    assert err.startswith(f"error: {path}: ")
    assert err.count("\n") == 1


def test_a_configuration_that_is_no_json_is_said_in_one_line(recorded, capsys):
    (recorded / "20260102-000000-k1/config.json").write_text('{"lr":')
    status, _, err = run(capsys, "show", "k1", "--json")
    assert status == 1
    assert err.startswith("error: the run's config.json is no JSON, ")

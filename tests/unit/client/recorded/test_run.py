"""One recorded run: its state, its places, its configuration and its values."""

from __future__ import annotations

import json
import os

import pytest

from tracker_client.recorded import BackendPlace, FinalValue
from tracker_client.recorded.run import read_run
from tracker_protocol.host_processes import pid_space, start_ticks
from tracker_protocol.run_files import MANIFEST_FILE

HEADER = {"run_id": "r", "name": "20260102-r", "project": "p", "writer": "daemon", "directory_id": "d"}
HERE = {"pid": os.getpid(), "pid_space": pid_space(), "start_ticks": start_ticks(os.getpid())}
END = {
    "status": "FAILED",
    "reason": "rank 1 lost",
    "ended_ns": 1,
    "attempt": 2,
    "world_size": 4,
    "last_step": 9,
}


@pytest.fixture
def told(tmp_path):
    """Reads a run whose manifest has these lines behind the header."""

    def read(*lines, **files):
        (tmp_path / MANIFEST_FILE).write_text("".join(json.dumps(line) + "\n" for line in (HEADER, *lines)))
        for name, text in files.items():
            (tmp_path / name.replace("_", ".")).write_text(text)
        return read_run(tmp_path)

    return read


def test_a_directory_without_a_run_has_none(tmp_path):
    assert read_run(tmp_path) is None
    assert read_run(tmp_path / "nowhere") is None
    (tmp_path / MANIFEST_FILE).write_text("no JSON\n")
    assert read_run(tmp_path) is None


@pytest.mark.skipif(not pid_space(), reason="no /proc: processes of this host cannot be told apart")
def test_a_run_is_running_while_the_process_that_writes_it_lives_and_interrupted_afterwards(told):
    assert told({"run": HERE}).state == "RUNNING"
    assert told({"run": {**HERE, "start_ticks": -1}}).state == "INTERRUPTED"
    assert told({"run": {**HERE, "pid": 2**22 + 1, "start_ticks": 5}}).state == "INTERRUPTED"
    assert told({"run": {**HERE, "start_ticks": -1, "pid_space": "another host"}}).state == "RUNNING"


def test_an_ended_run_has_its_status_and_a_resumed_one_is_running_again(told):
    run = told({"run": HERE}, {"closed": True, "ended": END})
    assert (run.state, run.reason, run.attempt, run.world_size, run.last_step) == (
        "FAILED", "rank 1 lost", 2, 4, 9,
    )  # fmt: skip
    assert run.is_closed
    assert told({"closed": True}).state == "ENDED"
    again = told({"closed": True, "ended": END}, {"closed": False, "ended": None, "run": HERE})
    assert (again.state, again.reason, again.ended, again.is_closed) == ("RUNNING", "", None, False)


def test_the_places_of_its_backends_are_the_last_told_and_the_csv_file_is_where_the_run_is(told, tmp_path):
    run = told(
        {"backend": {"name": "mlflow", "location": "sqlite:///a.db", "url": ""}},
        {"backend": {"name": "csv", "location": "/before/the/move/metrics.csv", "url": ""}},
        {"backend": {"name": "mlflow", "location": "experiment 1", "url": "http://mlflow/1"}},
    )
    assert run.backends == (
        BackendPlace("mlflow", "experiment 1", "http://mlflow/1"),
        BackendPlace("csv", str(tmp_path / "metrics.csv")),
    )


def test_its_size_is_that_of_its_own_files(told, tmp_path):
    (tmp_path / "foreign").write_bytes(b"x" * 1000)
    (tmp_path / "images").mkdir()
    (tmp_path / "images/a.png").write_bytes(b"x" * 7)
    run = told({"files": ["metrics.csv", "images/a.png", "gone.json"]}, metrics_csv="step,x\n0,1\n")
    assert run.files == ("images/a.png", "metrics.csv")
    assert run.size_bytes == 7 + len("step,x\n0,1\n")


def test_values_are_read_as_they_look(told):
    run = told(metrics_csv="step,n,ok,x,text\n0,3,True,0.5,a b\n1,,,nan,\n")
    first, second = run.rows()
    assert first == {"step": 0, "n": 3, "ok": True, "x": 0.5, "text": "a b"}
    assert first["ok"] is True
    assert set(second) == {"step", "x"}


def test_final_values_are_the_last_of_each_metric_with_the_aggregates_of_their_own(told):
    text = (
        "step,loss,loss/mean,loss/min,loss/max,loss/std,lr,critic/mean\n1,9,9,9,9,0,0.1,5\n2,1,2,0.5,3,1,,\n"
    )
    final = told(metrics_csv=text).final()
    assert final == {
        "loss": FinalValue(2, 1, 2.0, 0.5, 3.0, 1.0),
        "lr": FinalValue(1, 0.1),
        "critic/mean": FinalValue(1, 5),
    }


def test_the_last_step_is_that_of_the_last_whole_line(told):
    assert told(metrics_csv='step,x,t\n0,1,\n7,2,"a, b"\n9,').last_step == 7
    assert told(metrics_csv="step,x\n").last_step is None
    many = "step,x\n" + "".join(f"{step},0.5\n" for step in range(30_000))
    assert told(metrics_csv=many).last_step == 29_999


def test_a_run_without_files_has_no_configuration_and_no_values(told):
    run = told()
    assert (run.config(), list(run.rows()), run.final(), run.last_step, run.size_bytes) == (
        {},
        [],
        {},
        None,
        0,
    )


def test_its_configuration_is_that_of_its_file(told):
    assert told(config_json='{"lr": 0.1, "net": {"width": 3}}').config() == {"lr": 0.1, "net": {"width": 3}}


@pytest.mark.parametrize(
    "line",
    [
        {"run": 3, "ended": "x"},
        {"run": {"created_ns": "yesterday", "pid": "x", "world_size": "a", "state_dir": 1, "name": []}},
        {"run": {"created_ns": 10**40}},
        {"ended": {"last_step": "x", "world_size": "3", "status": 1, "ended_ns": [1], "attempt": True}},
        {"files": None, "tags": None, "backend": None},
        {"files": [1, None, "a\0b"], "tags": [1], "backend": {}},
    ],
    ids=str,
)
def test_what_a_manifest_tells_in_another_form_counts_as_not_told(told, line):
    run = told(line, metrics_csv="step,x\n4,1\n")
    assert (run.run_id, run.name, run.created, run.ended, run.last_step) == (
        "r",
        HEADER["name"],
        None,
        None,
        4,
    )
    assert (run.world_size, run.attempt, run.tags, run.files) == (None, 1, (), ())


def test_a_manifest_that_nests_without_end_is_none(tmp_path):
    (tmp_path / MANIFEST_FILE).write_bytes(b"[" * 100_000)
    assert read_run(tmp_path) is None


def test_a_file_outside_of_its_directory_is_not_the_runs(told, tmp_path):
    (tmp_path.parent / "others").write_text("x")
    assert told({"files": ["../others", str(tmp_path.parent / "others")]}).files == ()


def test_a_line_that_is_not_written_to_its_end_is_no_row_and_has_no_step(told):
    run = told(metrics_csv="step,x\n3,0.25\n12,1234")
    assert [row["step"] for row in run.rows()] == [3]
    assert run.final()["x"].value == 0.25
    assert run.last_step == 3

"""CSV files that a script writes itself: the seed's constructor, the daemon's file."""

import csv
import json
import os
import subprocess
import sys
import textwrap

import numpy as np
import pytest

from tests.support.rows_runs import one_rank
from tests.support.waiting import wait_until
from tracker_client import CSVBackend, Tracker, ezpz_compat, setup_tracker
from tracker_client.values.refusals import Refusals
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.errors import BackendRefused
from tracker_daemon.inprocess import outbox
from tracker_daemon.outbox.entries import EntryKind
from tracker_protocol import limits


def rows(directory):
    with (directory / "metrics.csv").open(newline="") as file:
        return [{name: cell for name, cell in row.items() if cell} for row in csv.DictReader(file)]


def test_a_tracker_over_csv_needs_no_daemon(tmp_path):
    with Tracker([CSVBackend(tmp_path / "logs")]) as tracker:
        tracker.log({"loss": 0.5, "lr": 0.1})
        tracker.log({"loss": 0.25, "phase": "warm-up"}, step=7)
        tracker.log({"loss": np.float32(0.125), "accuracy": True})
        tracker.log_config({"lr": 0.1, "path": tmp_path})
    assert rows(tmp_path / "logs") == [
        {"step": "0", "loss": "0.5", "lr": "0.1"},
        {"step": "7", "loss": "0.25", "phase": "warm-up"},
        {"step": "8", "loss": "0.125", "accuracy": "True"},
    ]
    assert json.loads((tmp_path / "logs/config.json").read_text()) == {"lr": 0.1, "path": str(tmp_path)}


def test_columns_stand_in_the_order_they_were_first_seen(tmp_path):
    backend = CSVBackend(tmp_path)
    for row in ({"b": 1}, {"b": 2, "a": 3}, {"c": 4, "a": 5}):
        backend.log(row)
    backend.finish()
    assert (tmp_path / "metrics.csv").read_text().splitlines()[0] == "step,b,a,c"


def test_a_step_among_the_metrics_is_the_rows_step(tmp_path):
    backend = CSVBackend(outdir=tmp_path)
    backend.log({"loss": 0.5, "step": 4})
    backend.log({"loss": 0.25})
    backend.finish()
    assert [row["step"] for row in rows(tmp_path)] == ["4", "5"]


def test_an_uncommitted_row_waits_for_the_next_commit_or_the_end(tmp_path):
    backend = CSVBackend(tmp_path)
    backend.log({"a": 1.0}, commit=False)
    backend.log({"b": 2.0})
    backend.log({"a": 3.0}, commit=False)
    backend.finish()
    assert rows(tmp_path) == [{"step": "0", "a": "1.0", "b": "2.0"}, {"step": "1", "a": "3.0"}]


def test_what_is_recorded_is_the_value_at_the_call(tmp_path):
    backend = CSVBackend(tmp_path)
    array = np.array(1.0)
    backend.log({"x": array})
    array[...] = 2.0
    backend.finish()
    assert rows(tmp_path)[0]["x"] == "1.0"


def runs_below(directory):
    return sorted(path.parent for path in (directory / "runs").glob("*/metrics.csv"))


def test_a_script_that_is_run_again_finds_its_last_run_moved_and_begins_its_own_file(tmp_path):
    for value in (1.0, 2.0, 3.0):
        backend = CSVBackend(tmp_path)
        backend.log({"x": value, f"only{value:.0f}": 1})
        backend.log_config({f"run{value:.0f}": True, "last": value})
        backend.finish()
    assert [row["x"] for row in rows(tmp_path)] == ["3.0"]
    assert json.loads((tmp_path / "config.json").read_text()) == {"run3": True, "last": 3.0}
    moved = [
        (rows(path)[0]["x"], json.loads((path / "config.json").read_text())) for path in runs_below(tmp_path)
    ]
    assert sorted(moved, key=lambda run: run[0]) == [
        ("1.0", {"run1": True, "last": 1.0}), ("2.0", {"run2": True, "last": 2.0}),
    ]  # fmt: skip


def test_a_script_that_was_killed_leaves_all_that_was_written_and_its_directory_to_the_next(tmp_path):
    script = f"""
        import time
        from tracker_client import CSVBackend
        backend = CSVBackend({str(tmp_path)!r})
        for step in range(1000):
            backend.log({{"x": step}}, step)
        time.sleep(600)
    """
    child = subprocess.Popen([sys.executable, "-c", textwrap.dedent(script)])
    path = tmp_path / "metrics.csv"
    wait_until(lambda: path.exists() and path.read_bytes().count(b"\n") == 1001, "the rows")
    child.kill()
    child.wait()
    backend = CSVBackend(tmp_path)
    backend.log({"x": 1000.0}, 1000)
    backend.finish()
    assert [int(row["step"]) for row in rows(tmp_path)] == [1000]
    (killed,) = runs_below(tmp_path)
    assert [int(row["step"]) for row in rows(killed)] == list(range(1000))


def test_two_trackers_of_one_directory_do_not_share_a_file(tmp_path, caplog):
    first, second = CSVBackend(tmp_path), CSVBackend(tmp_path)
    first.log({"x": 1})
    second.log({"x": 2})
    first.finish()
    second.finish()
    assert (first.directory, first.attempt) == (tmp_path, 1)
    assert [row["x"] for row in rows(tmp_path)] == ["1"]
    assert second.directory.parent == tmp_path / "runs"
    assert [row["x"] for row in rows(second.directory)] == ["2"]
    assert str(second.directory) in caplog.text


def test_a_given_run_id_has_its_own_directory_and_goes_on_in_it(tmp_path):
    seen = []
    for run_id, value in (("a", 1), ("b", 2), ("a", 3)):
        with setup_tracker(backends="csv", outdir=tmp_path, run_id=run_id, endpoint="inprocess", rank=0) as t:
            t.log({"x": value}, step=value)
            seen.append((t.run_id, t.attempt, t.directory))
    moved = seen[-1][-1]
    assert seen == [("a", 1, tmp_path), ("b", 1, tmp_path), ("a", 2, moved)]
    assert moved.parent == tmp_path / "runs"
    assert [row["x"] for row in rows(moved)] == ["1", "3"]
    assert [row["x"] for row in rows(tmp_path)] == ["2"]


def test_without_an_outdir_each_run_has_a_directory_below_tracker_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("TRACKER_OUTDIR", raising=False)
    for name in ("one", "two"):
        with setup_tracker("p", "csv", endpoint="inprocess", rank=0, name=name) as tracker:
            tracker.log({"x": 1})
        assert tracker.directory.parent == tmp_path / "tracker-runs"
        assert tracker.directory.name.endswith(f"-{name}")
        assert rows(tracker.directory) == [{"step": "0", "x": "1"}]
        assert (tmp_path / "tracker-runs" / "latest").resolve() == tracker.directory
    monkeypatch.setenv("TRACKER_OUTDIR", "named")
    with setup_tracker("p", "csv", endpoint="inprocess", rank=0) as tracker:
        assert tracker.directory == tmp_path / "named"
    monkeypatch.delenv("TRACKER_OUTDIR")
    with ezpz_compat.setup_tracker("p", "csv", endpoint="inprocess", rank=0) as tracker:
        assert tracker.directory == tmp_path, "the place that the seed's users know"


def test_only_rank_0_writes(tmp_path):
    backend = CSVBackend(tmp_path / "logs", rank=1)
    backend.log({"x": 1})
    backend.log_config({"lr": 1})
    backend.finish()
    assert not (tmp_path / "logs").exists()


def test_what_is_no_number_and_no_name_is_left_out_and_the_rest_of_the_row_recorded(tmp_path, caplog):
    backend = CSVBackend(tmp_path)
    for _ in range(2):
        backend.log({"x": 1, "list": [1, 2], 3: 4, "huge": 10**400, "": 5, "n" * 600: 6, "nested": {}})
    backend.finish()
    assert rows(tmp_path) == [{"step": "0", "x": "1"}, {"step": "1", "x": "1"}]
    for named in ("'list':", "3:", "'huge':", "'nested':"):
        first, total = (message for message in caplog.messages if named in message)
        assert "so far" not in first
        assert total == f"{first} (2 values so far)"
    assert sum("not 600" in message for message in caplog.messages) == 1


def test_an_integer_that_is_rounded_is_warned_about_once(tmp_path, caplog):
    backend = CSVBackend(tmp_path)
    for _ in range(2):
        backend.log({"big": 2**53 + 1, "small": 3, "float": 1e300})
    backend.finish()
    assert rows(tmp_path)[1] == {"step": "1", "big": str(2**53), "small": "3", "float": "1e300"}
    (warning,) = (message for message in caplog.messages if "2^53" in message)
    assert "'big'" in warning


def test_nested_dicts_are_recorded_by_their_dotted_names(tmp_path):
    backend = CSVBackend(tmp_path)
    backend.log({"eval": {"loss": 1, "by_class": {0: 2}}})
    backend.finish()
    assert rows(tmp_path) == [{"step": "0", "eval.loss": "1", "eval.by_class.0": "2"}]


def test_tables_images_and_artifacts_are_files_beside_the_metrics(tmp_path, caplog):
    picture = np.zeros((4, 4, 3), np.uint8)
    (tmp_path / "model").mkdir()
    (tmp_path / "model/weights.bin").write_bytes(b"1" * 100_000)
    with Tracker([CSVBackend(tmp_path / "logs")]) as tracker:
        tracker.log({"x": 1.0}, step=4)
        tracker.log_table("predictions", ["id", "label"], [[1, "cat"], [2, None]])
        tracker.log_image("sample", picture, caption="black")
        picture[...] = 255
        tracker.log_artifacts({"model": tmp_path / "model", "gone": tmp_path / "nowhere"})
        tracker.log_table("bad", ["a", "b"], [[1]])
    logs = tmp_path / "logs"
    assert (logs / "predictions.csv").read_text() == "id,label\n1,cat\n2,\n"
    (image,) = (logs / "images").glob("sample.4.*.png")
    assert image.with_suffix(".txt").read_text() == "black"
    assert (logs / "artifacts/model/weights.bin").read_bytes() == b"1" * 100_000
    assert len(rows(logs)) == 1
    assert not list(logs.glob(".tracker-contents*"))
    assert sum("nowhere" in message for message in caplog.messages) == 1
    assert sum("bad" in message for message in caplog.messages) == 1


def test_a_table_logged_again_takes_the_others_place(tmp_path):
    with Tracker([CSVBackend(tmp_path)]) as tracker:
        for value in (1, 2):
            tracker.log_table("t", ["v"], [[value]])
    assert (tmp_path / "t.csv").read_text() == "v\n2\n"


def test_a_watched_models_statistics_belong_to_the_next_call(tmp_path):
    torch = pytest.importorskip("torch")
    model = torch.nn.Linear(3, 2)
    with Tracker([CSVBackend(tmp_path)]) as tracker:
        tracker.watch(model, log="gradients", log_freq=1)
        for step in (5, 6):
            model.zero_grad()
            model(torch.ones(4, 3)).sum().backward()
            tracker.log({"loss": 0.5}, step=step)
        tracker.unwatch(model)
        model(torch.ones(4, 3)).sum().backward()
    watched = [row for row in rows(tmp_path) if "gradients/bias/mean" in row]
    assert [(row["step"], row["gradients/bias/mean"]) for row in watched] == [("5", "4.0"), ("6", "4.0")]
    assert [row["step"] for row in rows(tmp_path) if "loss" in row] == ["5", "6"]


def steps_of(box):
    """The steps of all rows; the newest one is there once nothing was logged since the read before."""
    found, last = [], 0
    while entries := box.read(last):
        last = entries[-1].number
        for entry in entries:
            if entry.kind is EntryKind.RECORDS:
                found += RecordBlock.from_bytes(entry.payload).steps.tolist()
    return found


def test_dropped_calls_keep_the_steps_of_those_that_follow():
    box = outbox.MemoryOutbox(Refusals(), points_max=16)
    box.add_call((100, 0, {"x": 0.0}, True))
    for number in range(40):
        box.add_call((None, number, {"x": float(number)}, True))
    steps = steps_of(box)
    assert steps == list(range(141 - len(steps), 141))


def test_a_directory_that_cannot_be_written_is_an_error_that_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendRefused, match="file"):
        CSVBackend(tmp_path / "file")


def test_rows_beyond_the_bound_are_dropped_oldest_first_and_counted(monkeypatch, caplog):

    box = outbox.MemoryOutbox(Refusals(), points_max=160)
    box.add_config({"lr": 1})
    for step in range(200):
        box.add_call((None, step, {"x": float(step)}, True))
    assert box.read(0)[0].payload == b'{"lr": 1}'
    steps = steps_of(box)
    assert steps == list(range(200 - len(steps), 200))
    assert box.dropped_points == 200 - len(steps)
    assert 0 < box.dropped_points < 60
    assert len(caplog.messages) == 1


def test_entries_are_read_again_until_what_follows_is_asked_for(monkeypatch):

    monkeypatch.setattr(limits, "INPROCESS_SLICE_POINTS", 2)
    box = outbox.MemoryOutbox(Refusals())
    for step in range(5):
        box.add_call((step, step, {"x": float(step)}, True))
    first = box.read(0)
    assert box.read(0) == first
    second = box.read(first[-1].number)
    assert [entry.number for entry in (*first, *second)] == [1, 2]
    assert [box.read(number)[0].number for number in (2, 3)] == [3, 4]
    assert box.read(4) == []


def test_calls_that_make_one_row_make_one_record_however_the_reads_divide_them():
    box, records = outbox.MemoryOutbox(Refusals()), []
    for step, values in [(1, {"a": 1.0}), (1, {"b": 2}), (1, {"note": "x"}), (1, {"b": 3}), (2, {"a": 4.0})]:
        box.add_call((step, 0, values, True))
        records += box.read(len(records))
    assert [record.number for record in records] == [1, 2]
    first, second = (RecordBlock.from_bytes(record.payload) for record in records)
    assert (first.columns, first.values.tolist(), first.texts[0].value) == (("a", "b"), [[1, 2]], "x")
    assert (second.columns, second.values.tolist()) == (("b",), [[3]])
    (last,) = box.read(2)
    assert RecordBlock.from_bytes(last.payload).steps.tolist() == [2]


@pytest.mark.parametrize("run", one_rank(), ids=lambda run: run.name)
def test_the_rows_of_a_script_without_a_daemon_follow_the_same_rules(tmp_path, run):
    backend = CSVBackend(tmp_path / run.name, 0)
    for call in run.calls[0]:
        backend.log(dict(call.values), call.step, call.commit)
    backend.finish()
    assert run.errors(tmp_path) == []


def test_an_exiting_script_records_all_and_its_forked_child_nothing(tmp_path):
    script = f"""
        import os, sys
        from tracker_client import CSVBackend
        backend = CSVBackend({str(tmp_path)!r})
        backend.log({{"x": 1}})
        child = os.fork()
        backend.log({{"x": 2}})
        if child:
            os.waitpid(child, 0)
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True, env=os.environ)
    assert [row["x"] for row in rows(tmp_path)] == ["1", "2"]


def test_the_path_of_the_file_is_there_for_the_seeds_history_which_cannot_move_it(tmp_path):
    backend = CSVBackend(tmp_path / "logs")
    backend.log({"loss": 0.5}, step=3)
    path = backend._csv_path  # noqa: SLF001 - that class reads it
    assert path == tmp_path / "logs/metrics.csv"
    backend._csv_path = tmp_path / "metrics.csv"  # noqa: SLF001
    assert backend._csv_path == path  # noqa: SLF001
    backend.finish()
    assert rows(tmp_path / "logs") == [{"step": "3", "loss": "0.5"}]
    assert not hasattr(CSVBackend(tmp_path, 1), "_csv_path")

"""The MLflow backend on a real SQLite store, read back through MlflowClient."""

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tests.support.waiting import wait_until

pytest.importorskip("mlflow")

from mlflow import MlflowClient
from mlflow.entities import ViewType

from tracker_daemon.aggregation.values.record import AxisColumn, RecordBlock, TextCell
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.mlflow.backend import MlflowBackend
from tracker_daemon.backends.mlflow.child import MlflowChildBackend
from tracker_daemon.delivery.pump import Pump
from tracker_daemon.errors import BackendError, BackendRefused, BackendUnavailable, PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_daemon.version import VERSION

TIME_NS = 1_700_000_000_000_000_000


@pytest.fixture(autouse=True)
def no_heartbeat_except_where_it_is_tested(monkeypatch):
    monkeypatch.setattr("tracker_protocol.limits.CHILD_HEARTBEAT_S", 3600.0)


@pytest.fixture
def outdir(tmp_path, empty_database):
    outdir = tmp_path / "out"
    outdir.mkdir()
    shutil.copy(empty_database, outdir / "mlflow.db")
    return outdir


@pytest.fixture
def client(outdir):
    uri = f"sqlite:///{outdir}/mlflow.db"
    return MlflowClient(tracking_uri=uri, registry_uri=uri)


@pytest.fixture
def describe(outdir):
    def describe(run_id="run-a", **fields):
        return RunDescription(run_id, fields.pop("project", "my.project"), "the-name", outdir, **fields)

    return describe


@pytest.fixture
def opened(describe):
    """``opened(state, **fields)``: an open backend."""

    def opened(state=None, **fields):
        backend = MlflowBackend(environ={})
        backend.open(describe(**fields), state)
        return backend

    return opened


def block(columns, *rows, first_step=0, texts=(), attempt=1):
    values = np.array([[0.0 if value is None else value for value in row] for row in rows], np.float64)
    valid = np.array([[value is not None for value in row] for row in rows])
    steps = np.arange(first_step, first_step + len(rows))
    times = TIME_NS + steps * 1_000_000
    return RecordBlock(
        1, attempt, tuple(columns), steps, times, values.reshape(len(rows), len(columns)),
        None if valid.all() else valid, tuple(TextCell(*cell) for cell in texts),
    )  # fmt: skip


def entries_of(*contents, first=1):
    entries = []
    for number, content in enumerate(contents, first):
        if isinstance(content, RecordBlock):
            entries.append(OutboxEntry(number, EntryKind.RECORDS, content.to_bytes()))
        else:
            kind = EntryKind.END if "status" in content else EntryKind.CONFIG
            entries.append(OutboxEntry(number, kind, json.dumps(content).encode()))
    return entries


def no_commit(state):
    raise AssertionError("nothing was to be committed on the way")


def the_run(client, experiment="my-project"):
    (run,) = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    return run


def points(client, run, key):
    return [(point.step, point.value) for point in client.get_metric_history(run.info.run_id, key)]


def count_of_points(outdir):
    with closing(sqlite3.connect(outdir / "mlflow.db")) as database:
        return database.execute("SELECT count(*) FROM metrics").fetchone()[0]


def test_texts_that_are_numbers_are_metrics_and_all_other_texts_are_tags(opened, client):
    backend = opened()
    texts = [
        (0, "acc", "0.5"), (0, "val/acc", "0.25"), (0, "note", "nan"), (1, "acc", "0.75"), (1, "mixed", "x"),
        (2, "mixed", "3"), (2, "under", "1_000"), (2, "50%", "7"),
    ]  # fmt: skip
    axes = (AxisColumn("epoch", (), np.array([9.0, 10.0, 11.0]), ("val/acc",)),)
    of_rows = block(["epoch"], [9.0], [10.0], [11.0], first_step=4, texts=texts)
    backend.deliver(entries_of(replace(of_rows, axes=axes)), no_commit)
    run = the_run(client)
    assert points(client, run, "acc") == [(4, 0.5), (5, 0.75)]
    assert points(client, run, "val/acc") == [(9, 0.25)]
    assert points(client, run, "mixed") == [(6, 3.0)]
    (key,) = (key for key in run.data.metrics if key.startswith("50_-"))
    assert run.data.tags[f"tracker.renamed.{key}"] == "50%"
    assert {name: run.data.tags.get(name) for name in ("acc", "note", "mixed", "under")} == {
        "acc": None, "note": "nan", "mixed": "x", "under": "1_000",
    }  # fmt: skip


def test_a_later_configuration_has_no_prefix_and_no_value_hides_another(opened, client):
    backend = opened()
    (first, second) = entries_of({"lr": 0.1, "a.b": 1, "a": {"b": 2}}, {"late": {"x": 5}, "lr": 0.2})
    backend.deliver([first, replace(second, kind=EntryKind.LATER_CONFIG)], no_commit)
    run = the_run(client)
    params = {name: value for name, value in run.data.params.items() if not name.startswith("tracker.")}
    (hashed,) = (name for name in params if name.startswith("config.a.b-"))
    assert params == {"config.lr": "0.1", "config.a.b": "2", hashed: "1", "late.x": "5", "lr": "0.2"}
    assert run.data.tags[f"tracker.renamed.{hashed}"] == '["config", "a.b"]'


def test_the_script_and_the_setting_choose_the_name_of_the_own_value_for_the_runs_life(opened, client):
    for run_id, chosen in (("a", {"options": {"own_name": "local"}}), ("b", {"mlflow_own_name": "local"})):
        backend = opened(run_id=run_id, **chosen)
        state = backend.deliver(entries_of(block(["loss", "loss/mean"], [1.0, 2.0])), no_commit)
        assert set(the_run(client).data.metrics) == {"loss/local", "loss/mean"}
        backend.close()
        later = opened(state, run_id=run_id)
        later.deliver(entries_of(block(["loss"], [0.5], first_step=1), first=2), no_commit)
        assert points(client, the_run(client), "loss/local") == [(0, 1.0), (1, 0.5)]
        client.delete_run(the_run(client).info.run_id)


def test_a_file_store_which_cannot_hold_both_names_has_the_own_value_at_local(
    describe, tmp_path, monkeypatch
):
    monkeypatch.setenv("MLFLOW_ALLOW_FILE_STORE", "true")
    uri = (tmp_path / "store").as_uri()
    backend = MlflowBackend(environ={"MLFLOW_TRACKING_URI": uri})
    backend.open(describe(), None)
    backend.deliver(entries_of(block(["loss", "loss/mean"], [1.0, 2.0])), no_commit)
    assert backend.set_aside() == ()
    assert the_run(MlflowClient(uri)).data.metrics == {"loss/local": 1.0, "loss/mean": 2.0}


def test_a_whole_run_arrives_with_its_metrics_config_and_end(opened, client, outdir):
    backend = opened()
    backend.deliver(
        entries_of(
            {"model": {"width": 3, "lr": 0.1}},
            block(["loss", "loss/mean", "lr"], [1.0, 2.0, 0.1], [0.5, None, 0.1]),
            {"status": "FINISHED", "reason": ""},
        ),
        no_commit,
    )
    run = the_run(client)
    assert run.info.status == "FINISHED"
    assert run.info.run_name == "the-name"
    assert points(client, run, "loss") == [(0, 1.0), (1, 0.5)]
    assert points(client, run, "loss/mean") == [(0, 2.0)]
    assert points(client, run, "lr") == [(0, 0.1), (1, 0.1)]
    assert run.data.params["config.model.width"] == "3"
    assert run.data.params["config.model.lr"] == "0.1"
    assert backend.location() == str(outdir / "mlflow.db")
    stamps = [point.timestamp for point in client.get_metric_history(run.info.run_id, "lr")]
    assert stamps == [TIME_NS // 1_000_000, TIME_NS // 1_000_000 + 1]


def test_artifacts_of_the_local_store_go_below_the_output_directory(opened, client, outdir):
    opened()
    run = the_run(client)
    assert run.info.artifact_uri.startswith(f"file://{outdir}/mlartifacts/")
    client.log_text(run.info.run_id, "hello", "note.txt")
    assert list((outdir / "mlartifacts").rglob("note.txt"))


def test_what_is_delivered_again_without_its_commit_is_there_once(opened, client):
    contents = [
        block(["x", "nan", "inf"], *[[float(n), float("nan"), float("inf")] for n in range(1500)]),
        {"lr": 1}, {"lr": 2}, block(["x"], [7.0], [7.0], first_step=1500),
    ]  # fmt: skip
    committed = opened().deliver(entries_of(contents[0])[:0], no_commit)
    for _ in range(3):
        opened(committed).deliver(entries_of(*contents), no_commit)
    run = the_run(client)
    assert points(client, run, "x") == [(step, float(step)) for step in range(1500)] + [
        (1500, 7.0),
        (1501, 7.0),
    ]
    assert len(points(client, run, "nan")) == len(points(client, run, "inf")) == 1500
    assert run.data.params["config.lr"] == "1"
    assert run.data.tags["tracker.changed.config.lr"] == "2"


def test_a_run_whose_id_was_never_committed_is_found_by_its_uid(opened, client):
    first = opened()
    again = opened()
    assert again.mlflow_run_id == first.mlflow_run_id
    assert the_run(client).data.tags["tracker.run_uid"] == "run-a"


@pytest.mark.parametrize("run_id", ["it's", 'a "b"', "x\\y", "🙂", "l" * 300, "a' OR tags.x = '"])
def test_any_run_id_can_be_found_again(opened, run_id):
    assert opened(run_id=run_id).mlflow_run_id == opened(run_id=run_id).mlflow_run_id
    assert opened(run_id=run_id).mlflow_run_id != opened(run_id="another").mlflow_run_id


def test_two_runs_of_a_project_share_its_experiment_and_nothing_else(opened, client):
    one, other = opened(run_id="one"), opened(run_id="other")
    one.deliver(entries_of(block(["x"], [1.0])), no_commit)
    other.deliver(entries_of(block(["x"], [2.0])), no_commit)
    assert one.experiment_id == other.experiment_id
    assert client.get_run(one.mlflow_run_id).data.metrics == {"x": 1.0}
    assert client.get_run(other.mlflow_run_id).data.metrics == {"x": 2.0}


def test_the_own_value_stays_at_local_after_a_restart(opened, client):
    state = opened().deliver(entries_of(block(["loss", "loss/mean"], [1.0, 1.0])), no_commit)
    opened(state).deliver(entries_of(block(["loss"], [2.0], first_step=1), first=2), no_commit)
    assert points(client, the_run(client), "loss") == [(0, 1.0), (1, 2.0)]


def test_non_finite_values_are_recorded(opened, client):
    values = [float("nan"), float("inf"), float("-inf")]
    opened().deliver(entries_of(block(["x"], *[[value] for value in values])), no_commit)
    nan, high, low = points(client, the_run(client), "x")
    assert np.isnan(nan[1])
    assert (high[1], low[1]) == (1.7976931348623157e308, -1.7976931348623157e308)


def test_two_equal_values_at_one_step_are_two_points(opened, client):
    times = TIME_NS + np.arange(2) * 1_000_000
    equal = RecordBlock(1, 1, ("x",), np.zeros(2, np.int64), times, np.ones((2, 1)))
    opened().deliver(entries_of(equal), no_commit)
    assert points(client, the_run(client), "x") == [(0, 1.0), (0, 1.0)]


def test_a_name_that_mlflow_refuses_is_recorded_under_another_and_the_mapping_with_it(opened, client):
    refused = ["loss[%]", "../escape", "a//b", "k" * 400, "🙂"]
    opened().deliver(
        entries_of(
            block(refused, [float(n) for n in range(len(refused))], texts=[(0, "why?", "text")]),
            {"key[0]": {"x y": 1}},
        ),
        no_commit,
    )
    run = the_run(client)
    names = {key: name for key, name in run.data.tags.items() if key.startswith("tracker.renamed.")}
    mapping = {key.removeprefix("tracker.renamed."): name for key, name in names.items()}
    assert {mapping[key]: value for key, value in run.data.metrics.items()} == {
        name: float(n) for n, name in enumerate(refused)
    }
    assert "config.key[0].x y" in mapping.values()
    assert "why?" in mapping.values()


def test_a_changed_param_is_kept_as_a_tag_and_spoils_no_other(opened, client):
    backend = opened()
    backend.deliver(entries_of({"lr": 1, "depth": 2}, {"lr": 5, "new": 3}), no_commit)
    run = the_run(client)
    assert (run.data.params["config.lr"], run.data.params["config.new"]) == ("1", "3")
    assert run.data.tags["tracker.changed.config.lr"] == "5"
    assert "tracker.changed.config.depth" not in run.data.tags
    backend.deliver(entries_of({"lr": 1}, first=3), no_commit)
    assert the_run(client).data.tags["tracker.changed.config.lr"] == "1"


def refuse(outdir, table, key):
    """Have the store's database refuse a key in a table, as a stricter one would."""
    with closing(sqlite3.connect(outdir / "mlflow.db")) as database:
        database.execute(
            f"CREATE TRIGGER refuse_{table} BEFORE INSERT ON {table} WHEN NEW.key = '{key}' "
            "BEGIN SELECT RAISE(ABORT, 'this key is not taken here'); END"
        )


def test_what_the_store_refuses_is_set_aside_value_by_value_and_all_else_is_there(opened, client, outdir):
    refuse(outdir, "metrics", "bad")
    refuse(outdir, "params", "config.bad")
    rows = [[float(n), float(n) if n % 400 == 7 else None, 2.0 * n] for n in range(500)]
    backend = opened()
    state = backend.deliver(
        entries_of({"lr": 0.1, "bad": 1}, block(["x", "bad", "z"], *rows), {"width": 3}),
        no_commit,
    )
    run = the_run(client)
    assert points(client, run, "x") == [(n, float(n)) for n in range(500)]
    assert points(client, run, "z") == [(n, 2.0 * n) for n in range(500)]
    assert "bad" not in run.data.metrics
    assert (run.data.params["config.lr"], run.data.params["config.width"]) == ("0.1", "3")
    first, second = backend.set_aside()
    assert (first.entry, first.records) == (1, 0)
    assert first.reason.startswith("1 of 'config.bad'")
    assert (second.entry, second.records) == (2, 2)
    assert second.reason.startswith("2 of 'bad'")
    assert "this key is not taken here" in second.reason
    backend.deliver(entries_of({"depth": 1}, first=4), no_commit)
    assert backend.set_aside() == ()
    again = opened(state)  # as when the journal died with the cursor's new position
    again.deliver(entries_of({"lr": 0.1}, {"a": 1}, {"b": 1}), no_commit)
    assert again.set_aside() == (first, second)


def test_a_large_configuration_arrives_whole(opened, client):
    long = "x" * 15_000
    opened().deliver(entries_of({**{f"key{n}": n for n in range(950)}, "long": long}), no_commit)
    run = the_run(client)
    assert all(run.data.params[f"config.key{n}"] == str(n) for n in range(950))
    assert len(run.data.params["config.long"]) == 6000
    pieces = [run.data.tags[f"tracker.whole_param.config.long.{n}"] for n in (1, 2, 3)]
    assert "".join(pieces) == long


def test_the_runs_tags_and_params_describe_the_training_script(opened, client):
    environment = {
        "user": "ada", "program": "train.py", "git_commit": "c0ffee", "git_branch": "main",
        "git_remote": "https://example.org/r.git", "host": "node7", "python_version": "3.12.1",
        "world_size": "8",
    }  # fmt: skip
    options = {"run_name": "asked", "tags": {"team": "x"}, "description": "a try", "mode": "unknown here"}
    opened(environment=environment, options=options)
    run = the_run(client)
    tags = run.data.tags
    assert (tags["mlflow.user"], tags["mlflow.source.name"]) == ("ada", "train.py")
    assert tags["mlflow.source.git.commit"] == "c0ffee"
    assert tags["mlflow.source.git.branch"] == "main"
    assert tags["mlflow.source.git.repoURL"] == "https://example.org/r.git"
    assert (tags["team"], tags["mlflow.note.content"], run.info.run_name) == ("x", "a try", "asked")
    assert tags["tracker.ignored_options"] == "mode"
    params = run.data.params
    assert (params["tracker.hostname"], params["tracker.world_size"]) == ("node7", "8")
    assert (params["tracker.python_version"], params["tracker.version"]) == ("3.12.1", VERSION)
    assert params["tracker.timestamp"].startswith(params["tracker.date"])


def test_a_second_opening_changes_no_system_param(opened, client):
    opened(environment={"host": "one"})
    before = the_run(client).data.params
    opened(environment={"host": "two"}, attempt=2)
    assert the_run(client).data.params == before


def test_texts_become_tags_the_last_one_standing(opened, client):
    texts = [
        (0, "phase", "warm-up"),
        (1, "phase", "training"),
        (1, "mlflow.user", "mallory"),
        (0, "nul", "a\0b"),
    ]
    backend = opened(environment={"user": "ada"})
    backend.deliver(entries_of(block(["x"], [1.0], [2.0], texts=texts)), no_commit)
    tags = the_run(client).data.tags
    assert tags["phase"] == "training"
    assert tags["mlflow.user"] == "ada"
    assert tags["text/mlflow.user"] == "mallory"
    assert tags["nul"] == "a�b"


def test_a_failed_run_is_failed_with_its_reason_and_a_later_attempt_runs_again(opened, client):
    backend = opened()
    state = backend.deliver(entries_of({"status": "FAILED", "reason": "rank 3 was lost"}), no_commit)
    run = the_run(client)
    assert (run.info.status, run.data.tags["tracker.end_reason"]) == ("FAILED", "rank 3 was lost")
    late = opened(state)
    state = late.deliver(entries_of(block(["x"], [1.0]), first=2), no_commit)
    assert the_run(client).info.status == "FAILED"
    opened(state).deliver(entries_of(block(["x"], [2.0], attempt=2), first=3), no_commit)
    assert the_run(client).info.status == "RUNNING"


def test_a_deleted_experiment_is_refused_with_what_to_do_and_goes_on_when_restored(opened, client):
    experiment = client.create_experiment("my-project")
    client.delete_experiment(experiment)
    with pytest.raises(BackendRefused, match=f"mlflow experiments restore --experiment-id {experiment}"):
        opened()
    client.restore_experiment(experiment)
    opened()


def test_a_deleted_run_is_refused_with_what_to_do_and_loses_nothing(opened, client):
    backend = opened()
    state = backend.deliver(entries_of(block(["x"], [1.0])), no_commit)
    client.delete_run(backend.mlflow_run_id)
    advice = f"mlflow runs restore --run-id {backend.mlflow_run_id}"
    with pytest.raises(BackendRefused, match=advice):
        backend.deliver(entries_of(block(["x"], [2.0], first_step=1), first=2), no_commit)
    for known in (state, None):
        with pytest.raises(BackendRefused, match=advice):
            opened(known)
    client.restore_run(backend.mlflow_run_id)
    opened(state).deliver(entries_of(block(["x"], [2.0], first_step=1), first=2), no_commit)
    assert points(client, the_run(client), "x") == [(0, 1.0), (1, 2.0)]


def test_an_experiment_deleted_mid_run_is_named_and_the_run_goes_on_when_it_is_restored(opened, client):
    backend = opened()
    state = backend.deliver(entries_of(block(["x"], [0.0])), no_commit)
    experiment_id = the_run(client).info.experiment_id
    client.delete_experiment(experiment_id)
    with pytest.raises(BackendRefused, match=f"mlflow experiments restore --experiment-id {experiment_id}"):
        backend.deliver(entries_of(block(["x"], [1.0], first_step=1), first=2), no_commit)
    client.restore_experiment(experiment_id)
    opened(state).deliver(entries_of(block(["x"], [1.0], first_step=1), first=2), no_commit)
    assert points(client, the_run(client), "x") == [(0, 0.0), (1, 1.0)]


def test_a_run_goes_to_an_experiment_made_beforehand_with_what_that_has(opened, client, tmp_path):
    made = client.create_experiment("made-before", artifact_location=(tmp_path / "elsewhere").as_uri())
    opened(options={"experiment_name": "made.before"})
    run = the_run(client, "made-before")
    assert run.info.experiment_id == made
    assert run.info.artifact_uri.startswith(f"file://{tmp_path}/elsewhere/")


def test_another_store_than_the_one_it_was_begun_in_is_refused_by_both_names(
    describe, opened, tmp_path, empty_database
):
    state = opened().deliver([], no_commit)
    other = shutil.copy(empty_database, tmp_path / "other.db")
    backend = MlflowBackend(environ={"MLFLOW_TRACKING_URI": f"sqlite:///{other}"})
    with pytest.raises(BackendRefused, match=r"out/mlflow\.db.*other\.db"):
        backend.open(describe(), state)


def test_a_run_that_the_script_names_is_continued(opened, client):
    experiment = client.create_experiment("elsewhere")
    mine = client.create_run(experiment).info.run_id
    client.set_terminated(mine)
    backend = opened(options={"run_id": mine})
    assert (backend.mlflow_run_id, backend.experiment_id) == (mine, experiment)
    assert client.get_run(mine).info.status == "RUNNING"
    assert client.get_experiment_by_name("my-project") is None


def test_entries_that_cannot_be_read_are_poison(opened):
    backend = opened()
    for kind in (EntryKind.RECORDS, EntryKind.CONFIG, EntryKind.END):
        with pytest.raises(PoisonEntry, match="entry 1"):
            backend.deliver([OutboxEntry(1, kind, b"\xff[")], no_commit)


def test_a_place_that_cannot_be_written_is_refused_at_once(describe, tmp_path):
    (tmp_path / "file").touch()
    description = RunDescription("r", "p", "n", tmp_path / "file" / "below")
    with pytest.raises(BackendRefused, match="cannot write"):
        MlflowBackend(environ={}).open(description, None)


@pytest.mark.parametrize("uri", ["file:///tmp/no-such-store", "nosuch://x", "./mlruns"])
def test_a_store_that_mlflow_does_not_take_is_refused_with_the_variable_to_set(describe, uri):
    with pytest.raises(BackendRefused, match="MLFLOW_TRACKING_URI"):
        MlflowBackend(environ={"MLFLOW_TRACKING_URI": uri}).open(describe(), None)


def test_a_long_delivery_gives_heartbeats_that_keep_what_is_stored(opened, client, monkeypatch):
    monkeypatch.setattr("tracker_protocol.limits.CHILD_HEARTBEAT_S", 0.0)
    contents = [block(["x"], [1.0]), block(["x"], [2.0], first_step=1)]
    states = []
    opened().deliver(entries_of(*contents), states.append)
    assert len(states) == 2
    requests = []
    backend = opened(states[-1])
    monkeypatch.setattr(MlflowClient, "log_batch", lambda *args, **items: requests.append(items))
    backend.deliver(entries_of(*contents), no_commit if not states else states.append)
    assert [items["metrics"][0].step for items in requests] == [1]


@pytest.mark.long
def test_two_processes_make_one_new_database_together(tmp_path):
    outdir = tmp_path / "new"
    errors = []

    def run(run_id):
        backend = MlflowChildBackend()
        try:
            backend.open(RunDescription(run_id, "p", "n", outdir), None)
            backend.deliver(entries_of(block(["x"], [1.0])), no_commit)
        except BackendError as error:
            errors.append(error)
        backend.close()

    threads = [threading.Thread(target=run, args=(f"run-{n}",)) for n in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(120)
    assert errors == []
    uri = f"sqlite:///{outdir}/mlflow.db"
    client = MlflowClient(tracking_uri=uri, registry_uri=uri)
    (experiment,) = [found for found in client.search_experiments() if found.name == "p"]
    assert len(client.search_runs([experiment.experiment_id])) == 3


def test_a_process_that_is_killed_as_it_makes_the_database_leaves_none(outdir, opened):
    (outdir / "mlflow.db").unlink()
    draft = outdir / ".mlflow.db.new"
    script = (
        "import sys; from pathlib import Path; "
        "from tracker_daemon.backends.mlflow.backend import MlflowBackend; "
        "from tracker_daemon.backends.base import RunDescription; outdir = Path(sys.argv[1]); "
        "MlflowBackend(environ={}).open(RunDescription('r', 'p', 'n', outdir), None)"
    )
    making = subprocess.Popen([sys.executable, "-c", script, str(outdir)])
    wait_until(lambda: draft.exists() and draft.stat().st_size, "the first tables")
    making.kill()
    making.wait()
    assert (outdir / "mlflow.db").stat().st_size == 0
    opened().deliver(entries_of(block(["x"], [1.0])), no_commit)
    assert count_of_points(outdir) == 1
    assert not draft.exists()


@pytest.mark.long
def test_children_killed_again_and_again_leave_every_point_once(describe, client):
    rows = 400
    entries = entries_of(
        {"lr": 1},
        *[block(["x", "x/mean"], *[[1.0, 2.0]] * rows, first_step=n * rows) for n in range(12)],
        {"status": "FINISHED", "reason": ""},
    )
    backend, lost = MlflowChildBackend(), []

    def commit(position, state, records, set_aside):
        if position in {4, 8} and position not in lost:
            lost.append(position)
            os.kill(backend.pid, signal.SIGKILL)
            raise BackendUnavailable("the store has it, and the journal does not")

    pump = Pump(backend, describe(), read=lambda after: entries[after : after + 2], commit=commit)
    pump.start()
    pump.notify()
    wait_until(lambda: count_of_points(describe().outdir), "the first points")
    os.kill(backend.pid, signal.SIGKILL)
    assert pump.drain(time.monotonic() + 120), pump.health()
    pump.stop(30)
    assert lost == [4, 8]
    run = the_run(client)
    assert run.info.status == "FINISHED"
    assert points(client, run, "x") == [(step, 1.0) for step in range(12 * rows)]
    assert points(client, run, "x/mean") == [(step, 2.0) for step in range(12 * rows)]
    assert len(client.search_runs([run.info.experiment_id], run_view_type=ViewType.ALL)) == 1
    assert not list(Path(describe().outdir).glob(".tracker-mlflow-*.lock"))

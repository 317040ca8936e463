"""The W&B backend with the real SDK: its files read back, and its uploads as a server received them."""

import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest

from tests.support.servers import wandb_stub
from tests.support.waiting import wait_until

pytest.importorskip("wandb")
import wandb
from wandb.proto import wandb_internal_pb2

from tracker_client.media.png import encode_png
from tracker_daemon.aggregation.shared.histograms import HistogramRow
from tracker_daemon.aggregation.values.item import Content, Item
from tracker_daemon.aggregation.values.record import RecordBlock, TextCell
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.wandb.backend import WandbBackend
from tracker_daemon.backends.wandb.child import WandbChildBackend
from tracker_daemon.backends.wandb.session_directory import MARKER, SessionStartNote
from tracker_daemon.backends.wandb.transaction_log import LoggedConfig, LoggedRow, TransactionLog
from tracker_daemon.errors import BackendRefused, BackendUnavailable, PoisonEntry
from tracker_daemon.files.content_files import content_path
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol import limits
from tracker_protocol.kinds import Kind

ENVIRONMENT = {
    "program": "/home/ada/train/main.py",
    "command": "/home/ada/train/main.py --lr 0.1 --name 'two words'",
    "working_directory": "/home/ada/train",
    "host": "node17",
    "user": "ada",
    "torch_version": "2.9.0",
    "git_commit": "c0ffee" + "0" * 34,
    "git_remote": "https://example.org/ada/train.git",
}


@pytest.fixture(autouse=True)
def own_environment(monkeypatch, tmp_path):
    """No key, no settings and no mode but the test's; the SDK's process ends with the test."""
    for name in [name for name in os.environ if name.startswith(("WANDB_", "WB_"))]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    monkeypatch.setattr(limits, "WANDB_FINISH_TIMEOUT_S", 5.0)
    wandb.teardown()
    yield
    try:
        wandb.teardown()
    except ConnectionError:
        wandb.teardown()  # the test had killed it


@pytest.fixture
def stub(monkeypatch):
    with wandb_stub.WandbStub() as stub:
        for name, value in stub.environment.items():
            monkeypatch.setenv(name, value)
        yield stub


@dataclass
class Journal:
    """Plays the journal for one run: its outbox, its cursor, and the processes that deliver."""

    outdir: Path
    options: dict
    run_id: str = "run-a"
    epoch: int = 1
    attempt: int = 1
    entries: list = field(default_factory=list)
    position: int = 0
    state: bytes | None = None
    backend: object = None

    def rows(self, *steps, columns=("loss", "loss/mean"), texts=()):
        values = np.array([[step + 0.5, step + 0.25] for step in steps], np.float64)
        times = np.array([(1_000_000 + step) * 10**9 for step in steps], np.int64)
        block = RecordBlock(1, 1, columns, np.array(steps, np.int64), times, values, None, texts)
        return self.add(EntryKind.RECORDS, block.to_bytes())

    def config(self, **values):
        return self.add(EntryKind.CONFIG, json.dumps(values).encode())

    def histograms(self, step, **counts):
        documents = {
            key: json.dumps({"edges": [0, len(one)], "counts": list(one)}) for key, one in counts.items()
        }
        row = HistogramRow(1, step, (1_000_000 + step) * 10**9, documents)
        return self.add(EntryKind.HISTOGRAMS, row.to_bytes())

    def item(self, kind, key, step, contents, **document):
        """An item whose contents are (path, bytes)."""
        stored = []
        for path, data in contents:
            digest = hashlib.sha256(data).hexdigest()
            place = content_path(self.description.contents, digest)
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(data)
            stored.append(Content(digest, len(data), path))
        item = Item(kind, key, step, step * 10**9, json.dumps(document), tuple(stored))
        return self.add(EntryKind.FILES, item.to_bytes())

    def end(self, status="FINISHED", reason=""):
        return self.add(EntryKind.END, json.dumps({"status": status, "reason": reason}).encode())

    def add(self, kind, payload):
        self.entries.append(OutboxEntry(len(self.entries) + 1, kind, payload))
        return self

    @property
    def description(self):
        return RunDescription(
            self.run_id,
            "the-project",
            "the-name",
            self.outdir,
            self.epoch,
            self.attempt,
            self.options,
            ENVIRONMENT,
            self.outdir / "contents",
        )

    def open(self, backend=None):
        self.backend = backend or WandbBackend()
        self.backend.open(self.description, self.state)
        return self

    def deliver(self, *, commit=True):
        """Deliver all that is there; without ``commit`` as if the journal had died at its end."""
        before = self.state
        state = self.backend.deliver(self.entries[self.position :], self._commit)
        if commit:
            self.state, self.position = state, len(self.entries)
        return before

    def _commit(self, state):
        self.state = state

    def reopen(self):
        self.backend.close()
        return self.open()


@pytest.fixture
def journal(tmp_path):
    """``journal(**options)``: the journal of a run with these W&B options."""
    made = []

    def make(**options):
        made.append(Journal(tmp_path / "out", options))
        return made[-1]

    yield make
    for one in made:
        if one.backend is not None:
            one.backend.close()


def logs(outdir):
    return sorted((outdir / "wandb").glob("*run-*/run-*.wandb"))


def only_log(outdir):
    (log,) = logs(outdir)
    return list(TransactionLog(log).read())


def rows_of(outdir):
    return [found for found in only_log(outdir) if isinstance(found, LoggedRow)]


def steps_of(rows):
    """(W&B's own step, training step) of rows from a file or a server."""
    return [
        (row.step, row.values["step"]) if isinstance(row, LoggedRow) else (row["_step"], row["step"])
        for row in rows
    ]


def upto(count):
    return [(step, step) for step in range(count)]


def core_of(outdir):
    markers = [json.loads(path.read_bytes()) for path in (outdir / "wandb").glob("*run-*/.tracker-session")]
    return markers[-1]["core"][0]


def kill_core(outdir):
    core = core_of(outdir)
    os.kill(core, signal.SIGKILL)
    wait_until(lambda: Path(f"/proc/{core}/stat").read_text().split()[2] == "Z", "the SDK's process to end")


# ---- offline -------------------------------------------------------------------------------------


def test_an_offline_run_needs_no_key_and_its_file_holds_every_row_once(journal, tmp_path):
    run = journal(mode="offline").open()
    run.config(lr=0.1, model={"layers": 2}).rows(0, 1, texts=(TextCell(0, "note", "warm up"),)).config(lr=0.2)
    run.rows(2, 3).end().deliver()

    first, *others = rows_of(run.outdir)
    assert first.values == {
        "loss": 0.5, "loss/mean": 0.25, "note": "warm up", "step": 0, "_timestamp": 1_000_000,
    }  # fmt: skip
    assert steps_of([first, *others]) == upto(4)
    changes = [found.values for found in only_log(run.outdir) if isinstance(found, LoggedConfig)]
    assert changes[-2:] == [{"lr": 0.1, "model": {"layers": 2}}, {"lr": 0.2}]
    assert run.backend.location() == str(logs(run.outdir)[0].parent)


def test_what_is_not_finite_is_kept(journal):
    run = journal(mode="offline").open()
    values = np.array([[math.nan, math.inf], [-math.inf, 1.0]])
    zeros = np.zeros(2, np.int64)
    block = RecordBlock(1, 1, ("a", "b"), np.arange(2), zeros, values)
    run.add(EntryKind.RECORDS, block.to_bytes()).deliver()
    first, second = rows_of(run.outdir)
    assert math.isnan(first.values["a"])
    assert first.values["b"] == math.inf
    assert second.values["a"] == -math.inf


def test_steps_that_repeat_or_go_back_keep_their_rows(journal):
    run = journal(mode="offline").open().rows(3, 4, 4, 2).rows(3, 20)
    run.deliver()
    assert steps_of(rows_of(run.outdir)) == [(3, 3), (4, 4), (5, 4), (6, 2), (7, 3), (20, 20)]


def test_a_directory_that_a_killed_process_had_begun_and_not_marked_is_not_left(journal):
    run = journal(mode="offline").open().rows(0, 1)
    run.deliver()
    run.backend.close()
    (written,) = (run.outdir / "wandb").glob("offline-run-2*")
    _, _, began, wandb_id = written.name.split("-", 3)
    SessionStartNote(run.outdir, run.run_id, wandb_id).write(str(written))
    begun = written.with_name(written.name.replace(began, "29990101_000000"))
    shutil.copytree(written, begun)
    (begun / MARKER).unlink()
    run.open().rows(2).end().deliver()
    assert steps_of(rows_of(run.outdir)) == upto(3)
    assert list(run.outdir.glob(".*.begun")) == []


def test_offline_a_repeated_delivery_leaves_each_row_once_in_one_directory(journal):
    run = journal(mode="offline").open().config(lr=0.1).rows(0, 1)
    run.deliver()
    run.rows(1, 2)
    run.deliver(commit=False)
    run.reopen()
    run.rows(3).deliver()
    assert steps_of(rows_of(run.outdir)) == [(0, 0), (1, 1), (2, 1), (3, 2), (4, 3)]
    run.end().deliver()
    assert len(list((run.outdir / "wandb").glob("*run-2*"))) == 1
    configured = {}
    for found in only_log(run.outdir):
        if isinstance(found, LoggedConfig):
            configured.update(found.values)
    assert configured["lr"] == 0.1
    assert configured["hostname"] == "node17"


def test_offline_histograms_are_there_once_after_a_repeated_delivery(journal):
    run = journal(mode="offline").open().rows(0).histograms(0, a=(1, 2), b=(3,))
    run.deliver()
    run.histograms(1, a=(4, 5))
    run.deliver(commit=False)
    run.reopen()
    run.rows(2).deliver()
    rows = rows_of(run.outdir)
    assert steps_of(rows) == [(0, 0), (1, 0), (2, 1), (3, 2)]
    assert rows[1].values["a"] == {"_type": "histogram", "values": [1, 2], "bins": [0, 1, 2]}
    assert rows[1].values["b"] == {"_type": "histogram", "values": [3], "bins": [0, 1]}
    assert rows[2].values["a"]["values"] == [4, 5]


def test_offline_images_in_a_table_and_several_images_of_one_key_are_whole_after_a_restart(journal):
    images = [("image.png", encode_png(4, 3, 3, bytes([shade]) * 36)) for shade in (10, 200)]
    cells = [["a", {"image": 1, "caption": "dark"}], ["b", {"image": 2}], ["c", None]]
    document = json.dumps({"columns": ["name", "image"], "data": cells}).encode()
    run = journal(mode="offline").open().rows(0)
    run.item("table", "shown", 1, [("table.json", document), *images], rows=3)
    run.item("image", "several", 2, images, captions=["dark", None])
    run.deliver()
    for _ in range(2):
        run.reopen()
        run.rows(3).deliver()
    rows = rows_of(run.outdir)
    assert steps_of(rows) == [(0, 0), (1, 1), (2, 2), (3, 3), (4, 3)]
    several = rows[2].values["several"]
    assert (several["_type"], several["captions"]) == ("images/separated", ["dark", None])
    files = logs(run.outdir)[0].parent / "files"
    assert [(files / name).read_bytes() for name in several["filenames"]] == [data for _, data in images]
    assert rows[1].values["shown"]["nrows"] == 3
    table, shown = stored_table(run.outdir, rows[1].values["shown"])
    assert [row[0] for row in table["data"]] == ["a", "b", "c"]
    assert [cell and cell.get("caption") for _, cell in table["data"]] == ["dark", None, None]
    assert shown == [data for _, data in images]


def stored_table(outdir, value):
    """The JSON of a table with images in its artifact, and its images' bytes."""
    client_id = value["artifact_path"].removeprefix("wandb-client-artifact://").partition("/")[0]
    records = map(wandb_internal_pb2.Record.FromString, TransactionLog(logs(outdir)[0]).payloads())
    (artifact,) = (one.artifact for one in records if one.artifact.client_id == client_id)
    files = {one.path: Path(one.local_path) for one in artifact.manifest.contents}
    (path,) = (path for name, path in files.items() if name.endswith(".table.json"))
    table = json.loads(path.read_bytes())
    return table, [files[cell["path"]].read_bytes() for _, cell in table["data"] if cell]


def test_numbers_keep_their_kinds_and_no_two_metrics_share_a_column(journal):
    run = journal(mode="offline").open()
    zeros = np.zeros(1, np.int64)
    columns = ("epoch", "done", "loss", "step")
    block = RecordBlock(
        1, 1, columns, zeros, zeros, np.array([[3.0, 1.0, 2.0, 7.0]]),
        kinds=np.array([[Kind.INT, Kind.BOOL, Kind.FLOAT, Kind.INT]], np.uint8),
    )  # fmt: skip
    run.add(EntryKind.RECORDS, block.to_bytes()).deliver()
    run.reopen()
    run.rows(1, columns=("step/local", "step")).deliver()
    first, second = (row.values for row in rows_of(run.outdir))
    kinds = {name: type(first[name]) for name in ("epoch", "done", "step/local")}
    assert kinds == {"epoch": int, "done": bool, "step/local": int}
    assert (first["epoch"], first["done"], first["loss"], first["step/local"]) == (3, True, 2.0, 7)
    (hashed,) = (name for name in second if name.startswith("step/local-"))
    assert (second[hashed], second["step/local"], second["step"]) == (1.5, 1.25, 1)


def test_what_is_no_histogram_is_poison(journal):
    run = journal(mode="offline").open()
    run.add(EntryKind.HISTOGRAMS, HistogramRow(1, 0, 0, {"a": "[]"}).to_bytes())
    with pytest.raises(PoisonEntry):
        run.deliver()


def test_offline_a_crash_before_the_first_commit_leaves_nothing_behind(journal):
    run = journal(mode="offline").open()
    run.backend = None  # gone without a word
    wandb.teardown()
    run.open().rows(0, 1).deliver()
    assert steps_of(rows_of(run.outdir)) == upto(2)


def test_the_files_of_another_daemons_run_of_that_id_stay(journal):
    earlier = journal(mode="offline").open().rows(0, 1).end()
    earlier.deliver()
    later = journal(mode="offline").open().rows(0)
    later.deliver()
    later.reopen().rows(1).deliver()
    assert sorted(len(list(TransactionLog(log).read())) for log in logs(later.outdir)) == [3, 4]


def test_in_a_later_epoch_no_row_of_the_file_is_left_out(journal):
    run = journal(mode="offline").open().rows(0)
    run.deliver()
    run.rows(1, 2)
    run.deliver(commit=False)
    run.backend.close()
    run.entries, run.position, run.epoch = [], 0, 2
    run.open().rows(7, 1).deliver()
    assert steps_of(rows_of(run.outdir)) == [(0, 0), (1, 1), (2, 2), (7, 7), (8, 1)]


def test_wandb_sync_uploads_each_row_of_a_restarted_run_once(journal, stub, monkeypatch):
    run = journal(mode="offline").open().config(lr=0.1).rows(*range(50))
    run.deliver()
    run.rows(*range(50, 60))
    run.deliver(commit=False)
    run.reopen().rows(60).end("FAILED", "rank 3 lost contact").deliver()
    directory = run.backend.location()
    run.backend.close()
    subprocess.run(
        [sys.executable, "-m", "wandb", "sync", directory],
        check=True, capture_output=True, timeout=60, cwd=Path(directory).parent,
    )  # fmt: skip
    uploaded = stub.runs["run-a"]
    assert steps_of(uploaded.rows) == upto(61)
    assert uploaded.config["lr"] == 0.1
    assert uploaded.exit_code == 1
    assert uploaded.summary["tracker/end_reason"] == "rank 3 lost contact"


def test_rows_whose_directory_is_gone_are_named_and_the_run_goes_on(journal, capsys):
    run = journal(mode="offline").open().rows(0, 1)
    run.deliver()
    shutil.rmtree(run.backend.location())
    run.reopen().rows(2).deliver()
    assert steps_of(rows_of(run.outdir)) == [(2, 2)]
    assert "rows of the W&B run are missing" in capsys.readouterr().out


def test_a_long_delivery_tells_on_the_way_that_it_goes_on(journal, monkeypatch):
    monkeypatch.setattr(limits, "CHILD_HEARTBEAT_S", 0.0)
    run = journal(mode="offline").open().rows(0, 1)
    run.deliver()
    run.reopen().rows(2, 3)
    told = []
    run.backend.deliver(run.entries[1:], told.append)
    assert len(told) > 4
    assert told[0] == told[1] == run.state  # of what is being repeated, nothing is committed before all is


@pytest.mark.parametrize("mode", ["offline", "dryrun"])
def test_the_daemons_wandb_mode_holds_where_the_script_names_none(journal, monkeypatch, mode):
    monkeypatch.setenv("WANDB_MODE", mode)
    run = journal().open().rows(0)
    run.deliver()
    assert "offline-run" in run.backend.location()


def test_disabled_takes_everything_and_leaves_nothing(journal):
    run = journal(mode="disabled").open().rows(0).config(a=1).end()
    run.deliver()
    assert run.backend.location() is None
    assert not run.outdir.exists()


def test_an_entry_that_cannot_be_read_is_poison_and_nothing_of_its_slice_is_logged(journal):
    run = journal(mode="offline").open().rows(0)
    run.add(EntryKind.RECORDS, b"garbage")
    with pytest.raises(PoisonEntry, match="entry 2"):
        run.deliver()
    assert rows_of(run.outdir) == []


def test_a_directory_that_cannot_be_made_pauses_with_its_name(journal):
    run = journal(mode="offline")
    run.outdir.write_text("a file")
    with pytest.raises(BackendRefused, match=str(run.outdir)):
        run.open()


# ---- online --------------------------------------------------------------------------------------


def test_an_online_run_arrives_with_what_describes_its_script(journal, stub):
    run = journal(
        group="sweep-7", tags=["a", "b"], notes="first try", job_type="train", sweep_id="sw1"
    ).open()
    assert run.backend.location() == f"{stub.url}/the-team/the-project/runs/run-a"
    run.config(lr=0.1).rows(0, 1, 1).end().deliver()

    uploaded = stub.runs["run-a"]
    assert steps_of(uploaded.rows) == [(0, 0), (1, 1), (2, 1)]
    assert uploaded.rows[1]["loss/mean"] == 1.25
    assert uploaded.exit_code == 0
    told = {
        "displayName": "the-name", "groupName": "sweep-7", "notes": "first try", "jobType": "train",
        "tags": ["a", "b"], "sweep": "sw1", "host": "node17", "program": "/home/ada/train/main.py",
        "commit": ENVIRONMENT["git_commit"], "repo": ENVIRONMENT["git_remote"],
    }  # fmt: skip
    assert {name: uploaded.merged(name) for name in told} == told
    assert uploaded.config["lr"] == 0.1
    assert uploaded.config["torch_version"] == "2.9.0"
    metadata = json.loads(uploaded.uploads["wandb-metadata.json"])
    assert (metadata["host"], metadata["username"], metadata["codePath"]) == ("node17", "ada", "main.py")
    assert metadata["args"] == ["--lr", "0.1", "--name", "two words"]


def test_online_a_repeated_delivery_brings_each_row_once(journal, stub):
    run = journal().open().config(lr=0.1).rows(*range(10))
    run.deliver()
    run.rows(9, 10, 11)
    run.deliver(commit=False)
    run.reopen()  # which uploads what was delivered and not committed
    assert len(stub.runs["run-a"].rows) == 13
    run.rows(12).end().deliver()
    assert steps_of(stub.runs["run-a"].rows) == [*upto(10), (10, 9), (11, 10), (12, 11), (13, 12)]
    assert stub.runs["run-a"].exit_code == 0
    assert len(logs(run.outdir)) == 1


def test_rows_that_were_committed_and_not_uploaded_are_sent_again(journal, stub):
    run = journal().open().rows(*range(10))
    run.deliver()
    assert run.backend.trouble() == ""
    kill_core(run.outdir)
    assert stub.runs["run-a"].rows == []
    with pytest.raises(BackendUnavailable, match="W&B's process has ended"):
        run.backend.trouble()  # before there is anything to deliver
    with pytest.raises(BackendUnavailable, match="delivery restarts from it"):
        run.rows(10).deliver()
    run.reopen().end().deliver()
    assert steps_of(stub.runs["run-a"].rows) == upto(11)


def test_a_run_that_ended_is_not_begun_again_by_opening_it(journal, stub):
    run = journal().open().rows(0).end()
    run.deliver()
    asked = len(stub.requests)
    run.reopen()
    assert len(stub.requests) == asked
    assert run.backend.location() == f"{stub.url}/the-team/the-project/runs/run-a"


def test_what_comes_after_the_end_is_delivered_and_the_end_stays(journal, stub):
    run = journal().open().rows(0, 1).end("FAILED", "rank 1 lost contact")
    run.deliver()
    run.rows(0).deliver()
    assert steps_of(stub.runs["run-a"].rows) == [(0, 0), (1, 1), (2, 0)]
    assert stub.runs["run-a"].exit_code == 1


def test_a_later_attempt_takes_the_run_up_again(journal, stub):
    run = journal().open().rows(0, 1).end("FAILED")
    run.deliver()
    run.attempt = 2
    run.reopen().rows(1, 2)
    run.deliver()
    run.end().deliver()
    assert steps_of(stub.runs["run-a"].rows) == [(0, 0), (1, 1), (2, 1), (3, 2)]
    assert stub.runs["run-a"].exit_code == 0


def test_an_outage_is_waited_for_and_the_end_waits_for_the_upload(journal, stub, monkeypatch):
    monkeypatch.setattr(limits, "WANDB_FINISH_TIMEOUT_S", 2.0)
    stub.answer_file_stream = lambda: 503
    run = journal().open().rows(0, 1).end()
    with pytest.raises(BackendUnavailable, match="in time"):
        run.deliver()
    stub.answer_file_stream = lambda: 200
    run.reopen().deliver()
    assert steps_of(stub.runs["run-a"].rows) == upto(2)
    assert stub.runs["run-a"].exit_code == 0


@pytest.mark.parametrize("status", [400, 401, 403, 404])
def test_an_upload_that_the_server_refuses_pauses_and_goes_on_later(journal, stub, status):
    stub.answer_file_stream = lambda: status
    run = journal().open().rows(0, 1).end()
    with pytest.raises(BackendRefused, match=str(status)):
        run.deliver()
    stub.answer_file_stream = lambda: 200
    run.reopen().deliver()
    assert steps_of(stub.runs["run-a"].rows) == upto(2)
    assert stub.runs["run-a"].exit_code == 0


def test_a_refused_upload_is_noticed_before_the_end(journal, stub):
    stub.answer_file_stream = lambda: 403
    run = journal().open()

    def refused():
        try:
            run.rows(0).deliver()
        except BackendRefused as error:
            return "403" in str(error)
        return False

    wait_until(refused, "the refusal to be noticed")


def test_without_a_key_it_pauses_and_names_the_variable(journal, stub, monkeypatch):
    monkeypatch.delenv("WANDB_API_KEY")
    with pytest.raises(BackendRefused, match="WANDB_API_KEY"):
        journal().open()
    assert stub.requests == []


def test_a_key_that_cannot_be_one_pauses_and_is_not_shown(journal, stub, monkeypatch):
    monkeypatch.setenv("WANDB_API_KEY", "not-a-key")
    with pytest.raises(BackendRefused, match="WANDB_API_KEY") as raised:
        journal().open()
    assert "not-a-key" not in str(raised.value)


@pytest.mark.parametrize(
    ("status", "error"), [(401, BackendRefused), (403, BackendRefused), (500, BackendUnavailable)]
)
def test_a_run_that_the_server_does_not_begin_leaves_no_files_and_is_tried_again(
    journal, stub, monkeypatch, status, error
):
    monkeypatch.setattr(limits, "WANDB_INIT_TIMEOUT_S", 3.0)
    stub.answer_graphql = lambda operation: status if operation == "UpsertBucket" else 200
    run = journal()
    with pytest.raises(error):
        run.open()
    assert logs(run.outdir) == []
    stub.answer_graphql = lambda operation: 200
    run.open().rows(0).end().deliver()
    assert steps_of(stub.runs["run-a"].rows) == upto(1)


def test_a_server_that_is_not_there_is_an_outage(journal, monkeypatch):
    monkeypatch.setattr(limits, "WANDB_INIT_TIMEOUT_S", 2.0)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("WANDB_API_KEY", wandb_stub.API_KEY)
    with pytest.raises(BackendUnavailable):
        journal().open()


def test_a_run_that_must_or_must_not_exist_is_refused_where_it_does_not_or_does(journal, stub):
    with pytest.raises(BackendRefused, match="resume"):
        journal(id="other", resume="must").open()
    first = journal(id="other", resume="never").open().rows(0)
    first.deliver()
    first.reopen().rows(1).end().deliver()
    assert steps_of(stub.runs["other"].rows) == upto(2)
    with pytest.raises(BackendRefused, match="resume"):
        journal(id="other", resume="never", notes="another journal").open()


def test_a_run_that_others_filled_is_continued_after_their_rows(journal, stub):
    first = journal(id="shared-id").open().rows(*range(5)).end()
    first.deliver()
    later = journal(id="shared-id").open().rows(0, 1)
    later.deliver(commit=False)
    later.reopen().rows(2).end().deliver()
    assert steps_of(stub.runs["shared-id"].rows) == [*upto(5), (5, 0), (6, 1), (7, 2)]


def test_what_was_recorded_offline_goes_online_when_the_mode_does(journal, stub, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    run = journal().open().config(lr=0.1).rows(0, 1)
    run.deliver()
    run.backend.close()
    wandb.teardown()  # the SDK reads its environment once in a process
    monkeypatch.setenv("WANDB_MODE", "online")
    run.open().rows(2).end().deliver()
    assert steps_of(stub.runs["run-a"].rows) == upto(3)
    assert stub.runs["run-a"].config["lr"] == 0.1


def test_shared_leaves_the_numbering_to_the_server(journal, stub):
    run = journal(mode="shared").open().rows(5, 6).end()
    run.deliver()
    assert [(row["step"], row["loss"]) for row in stub.runs["run-a"].rows] == [(5, 5.5), (6, 6.5)]


# ---- in a process of its own ---------------------------------------------------------------------


@pytest.mark.long
@pytest.mark.parametrize("mode", ["offline", "online"])
def test_each_row_is_there_once_though_its_process_is_killed_again_and_again(journal, stub, kills, mode):
    run = journal(mode=mode)
    environment = {**os.environ, "WANDB_SILENT": "true"}
    for at in range(kills):
        run.open(WandbChildBackend(environment=environment))
        run.rows(10 * at, 10 * at + 1, 10 * at + 1)
        run.deliver(commit=at % 2 == 0)
        os.kill(run.backend.pid, signal.SIGKILL)
        run.backend.close()
    run.open(WandbChildBackend(environment=environment))
    run.end().deliver()
    run.backend.close()
    found = stub.runs["run-a"].rows if mode == "online" else rows_of(run.outdir)
    assert steps_of(found) == [
        (10 * at + offset, 10 * at + min(offset, 1)) for at in range(kills) for offset in range(3)
    ]
    assert len(logs(run.outdir)) == 1

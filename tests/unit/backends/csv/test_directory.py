"""The directory that a CSV run writes to."""

import threading
from pathlib import Path

import pytest

from tracker_daemon.errors import BackendRefused, PoisonEntry
from tracker_daemon.files.run_directory import close_directory
from tracker_daemon.files.run_names import safe_run_id
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry


@pytest.fixture
def deliver_one(make_ledger, make_block):
    def deliver(outdir, run_id, value):
        ledger = make_ledger(outdir, run_id)
        ledger.add(make_block(["loss"], [[value]]))
        ledger.path = ledger.deliver_all()
        return ledger

    return deliver


def test_two_runs_in_one_outdir_keep_apart(tmp_path, deliver_one):
    deliver_one(tmp_path, "first", 1.0)
    second = deliver_one(tmp_path, "second", 2.0)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,1.0\n"
    assert second.path.parent.parent == tmp_path / "runs"
    assert second.path.read_text() == "step,loss\n0,2.0\n"


def test_runs_opened_at_the_same_moment_never_share_a_directory(tmp_path, make_ledger):
    barrier = threading.Barrier(8)
    places = []

    def open_one(number):
        barrier.wait()
        backend = make_ledger(tmp_path / "out", f"run-{number}").opened()
        places.append(backend.location())
        backend.close()

    threads = [threading.Thread(target=open_one, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(places)) == 8
    assert str(tmp_path / "out" / "metrics.csv") in places


def test_a_run_without_a_state_returns_to_the_directory_that_it_claimed(tmp_path, make_ledger):
    first = make_ledger(tmp_path, "a").opened()
    other = make_ledger(tmp_path, "b").opened()
    assert make_ledger(tmp_path, "a").opened().location() == first.location()
    assert make_ledger(tmp_path, "b").opened().location() == other.location()


def test_a_moved_run_goes_on_in_its_file_to_the_byte_where_its_state_ends(tmp_path, deliver_one, make_block):
    ledger = deliver_one(tmp_path, "mine", 1.0)
    ledger.add(make_block(["loss"], [[2.0]], first_step=1))
    backend = ledger.opened()
    ledger.deliver(backend, 1, commit=False)  # killed before the cursor's commit
    backend.close()
    close_directory(tmp_path, "mine")
    deliver_one(tmp_path, "other", 5.0)
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,5.0\n"
    moved = ledger.deliver_all()
    assert moved.parent.parent == tmp_path / "runs"
    assert moved.read_text() == "step,loss\n0,1.0\n1,2.0\n"


def test_a_metrics_file_of_unknown_origin_is_left_alone(tmp_path, deliver_one):
    (tmp_path / "metrics.csv").write_text("step,loss\n0,9.0\n")
    mine = deliver_one(tmp_path, "mine", 1.0).path
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,9.0\n"
    assert mine.parent.parent == tmp_path / "runs"


def test_a_run_whose_marker_was_removed_continues_in_its_file(tmp_path, deliver_one, make_block):
    ledger = deliver_one(tmp_path, "mine", 1.0)
    (tmp_path / ".tracker-run").unlink()
    ledger.add(make_block(["loss"], [[2.0]], first_step=1))
    ledger.deliver_all()
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,1.0\n1,2.0\n"


def test_a_run_whose_directory_another_run_took_over_goes_elsewhere(tmp_path, deliver_one, make_block):
    ledger = deliver_one(tmp_path, "mine", 1.0)
    (tmp_path / ".tracker-run").unlink()
    (tmp_path / "metrics.csv").unlink()
    deliver_one(tmp_path, "other", 5.0)
    ledger.add(make_block(["loss"], [[2.0]], first_step=1))
    mine = ledger.deliver_all()
    assert (tmp_path / "metrics.csv").read_text() == "step,loss\n0,5.0\n"
    assert mine.parent.parent == tmp_path / "runs"
    assert mine.read_text() == "step,loss\n1,2.0\n"


@pytest.mark.parametrize("run_id", ["../escape", "a/b", ".hidden", "..", "", "x" * 300, "naïve"])
def test_no_run_id_escapes_the_outdir_or_shares_a_name(run_id):
    name = safe_run_id(run_id)
    assert name not in {"", ".", ".."}
    assert "/" not in name
    assert not name.startswith(".")
    assert len(name) < 200
    assert name != safe_run_id(run_id + "_")


def test_a_directory_in_place_of_the_file_pauses_rather_than_retries(tmp_path, make_ledger):
    (tmp_path / "metrics.csv").mkdir()
    ledger = make_ledger(tmp_path, "mine")
    assert Path(ledger.opened().location()).parent.parent == tmp_path / "runs"
    (tmp_path / "file").write_text("")
    with pytest.raises(BackendRefused, match="file"):
        make_ledger(tmp_path / "file", "mine").opened()


@pytest.mark.parametrize(
    ("kind", "payload"),
    [(EntryKind.CONFIG, b"[1]"), (EntryKind.CONFIG, b"{"), (EntryKind.RECORDS, b"junk")],
)
def test_an_entry_that_cannot_be_read_is_poison_and_leaves_the_files_as_they_were(
    ledger, make_block, kind, payload
):
    ledger.add(make_block(["a"], [[1.0]]))
    backend = ledger.opened()
    with pytest.raises(PoisonEntry, match="entry 9"):
        backend.deliver([ledger.entries[0], OutboxEntry(9, kind, payload)], ledger.set_state)
    backend.close()
    assert not (ledger.outdir / "metrics.csv").exists()

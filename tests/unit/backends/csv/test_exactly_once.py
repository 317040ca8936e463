"""Whatever happens between deliveries, metrics.csv ends with each record once."""

import csv
import errno
import json
import os
import stat
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.csv.format import block_columns, column_name
from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.outbox.entries import EntryKind

NAMES = ["loss", "lr", "a,b", 'q"uoted', "two\nlines", "step", "größe", "x/mean", " padded "]


@st.composite
def blocks(draw, make_block):
    columns = draw(st.lists(st.sampled_from(NAMES), unique=True, max_size=5))
    rows = draw(st.integers(1, 4))
    cell = st.one_of(st.none(), st.floats())
    values = [[draw(cell) for _ in columns] for _ in range(rows)]
    text = st.tuples(st.integers(0, rows - 1), st.sampled_from(["note", "tag"]), st.text(max_size=6))
    return make_block(
        columns, values, first_step=draw(st.integers(0, 99)), texts=draw(st.lists(text, max_size=3))
    )


def same_cell(cell, value):
    if isinstance(value, str):
        return cell == value.replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\\0")
    return repr(float(cell)) == repr(value)


def check(path, contents):
    """The file has exactly the records of ``contents``, in order, and the columns as first seen."""
    found = [content for content in contents if isinstance(content, RecordBlock)]
    with path.open(newline="") as file:
        reader = csv.DictReader(file)
        names = list(dict.fromkeys(name for block in found for name in block_columns(block)))
        assert reader.fieldnames == ["step", *names]
        rows = list(reader)
    assert len(rows) == sum(map(len, found))
    lines = iter(rows)
    for block in found:
        for at, step in enumerate(block.steps.tolist()):
            expected = {
                column_name(name): float(block.values[at, k])
                for k, name in enumerate(block.columns)
                if block.valid is None or block.valid[at, k]
            }
            expected.update({column_name(t.column): t.value for t in block.texts if t.row == at})
            row = next(lines)
            assert row.pop("step") == str(step)
            assert None not in row, "a line has more cells than the header"
            for name, cell in row.items():
                assert same_cell(cell, expected[name]) if name in expected else cell == ""


@settings(deadline=None)
@given(data=st.data())
def test_any_partition_with_reopenings_and_junk_gives_each_record_once(data, make_ledger, make_block):
    contents = data.draw(st.lists(blocks(make_block), min_size=1, max_size=8))
    with tempfile.TemporaryDirectory() as directory:
        ledger = make_ledger(Path(directory))
        for content in contents:
            ledger.add(content)
        backend = ledger.opened()
        while ledger.position < len(ledger.entries):
            lost = data.draw(st.booleans())
            ledger.deliver(backend, data.draw(st.integers(1, 4)), commit=not lost)
            if lost or data.draw(st.booleans()):
                backend.close()
                with Path(directory, "metrics.csv").open("ab") as file:
                    file.write(data.draw(st.sampled_from([b"", b"\n", b"7,0.", b"1,2,3\n4,", b"\0" * 50])))
                backend = ledger.opened()
        backend.close()
        check(Path(directory, "metrics.csv"), contents)


# ---- every point at which a delivery can break ----


class Crash(BaseException):
    """The process is gone: nothing catches it."""


class Breaker:
    """Counts the calls that change the disk and breaks at one of them, before, amid or after it."""

    WATCHED = ("pwrite", "fsync", "ftruncate", "replace", "rename", "unlink", "mkdir")

    def __init__(self, monkeypatch, failure):
        self.left = -1
        self.calls = 0
        self.failure = failure
        for name in self.WATCHED:
            monkeypatch.setattr(os, name, self._watched(getattr(os, name), name))

    def tick(self):
        self.calls += 1
        self.left -= 1
        return self.left == -1

    def _watched(self, real, name):
        def call(*args, **kwargs):
            if self.left < 0:
                self.calls += 1
                return real(*args, **kwargs)
            if self.tick():
                raise self.failure()
            if name == "pwrite" and len(args[1]) > 1 and self.tick():
                real(args[0], args[1][: len(args[1]) // 2], args[2])
                raise self.failure()
            done = real(*args, **kwargs)
            if self.tick():
                raise self.failure()
            return done

        return call


def scenario(make_block):
    rows = [[float(i), i / 3] for i in range(20)]
    return [
        {"lr": 0.1},
        make_block(["loss", "lr"], rows),
        make_block(["loss", "acc"], rows, first_step=20),
        {"lr": 0.2, "layers": [1, 2]},
        make_block(["loss", "lr"], rows, first_step=40, texts=[(3, "note", "a,\nb")]),
        make_block(["acc"], [[1.0]], first_step=60),
    ]


def play(ledger, breaker, break_at):
    """Deliver all; after a break, go on as a new process or a retry would. Returns the breaks."""
    breaks = 0
    breaker.left = break_at  # Negative from the break on.
    while ledger.position < len(ledger.entries):
        try:
            backend = ledger.opened()
            while ledger.position < len(ledger.entries):
                ledger.deliver(backend, 2)
            backend.close()
        except (Crash, BackendUnavailable):
            breaks += 1
    return breaks


@pytest.mark.parametrize(
    "failure",
    [
        Crash,
        lambda: OSError(errno.ENOSPC, "No space left on device"),
        lambda: OSError(errno.EIO, "I/O error"),
    ],
    ids=["crash", "ENOSPC", "EIO"],
)
def test_each_record_is_there_once_wherever_a_delivery_breaks(
    tmp_path, monkeypatch, make_ledger, make_block, failure
):
    breaker = Breaker(monkeypatch, failure)
    contents = scenario(make_block)
    break_at = 0
    while True:
        ledger = make_ledger(tmp_path / str(break_at))
        for content in contents:
            ledger.add(content)
        broke = play(ledger, breaker, break_at)
        [path] = ledger.outdir.rglob("metrics.csv")
        check(path, contents)
        assert json.loads(path.with_name("config.json").read_text()) == {"lr": 0.2, "layers": [1, 2]}
        assert not list(path.parent.glob(".metrics.csv.*"))
        if breaker.left >= 0:
            break
        assert broke <= 1
        break_at += 1
    assert break_at > 60, "the scenario should break in many places"


@pytest.mark.parametrize("after_commit", [False, True])
def test_a_crash_around_the_commit_of_a_new_generation_loses_and_doubles_nothing(
    ledger, make_block, after_commit
):
    contents = scenario(make_block)
    for content in contents:
        ledger.add(content)
    backend = ledger.opened()
    ledger.deliver(backend, 2)

    def crash(state):
        if after_commit:
            ledger.state = state
        raise Crash

    with pytest.raises(Crash):
        backend.deliver(ledger.entries[2:3], crash)
    assert list(ledger.outdir.glob(".metrics.csv.generation-2")), "the new generation is not yet in place"
    ledger.opened().close()
    header = (ledger.outdir / "metrics.csv").read_text().splitlines()[0]
    assert header == ("step,loss,lr,acc" if after_commit else "step,loss,lr")
    check(ledger.deliver_all(), contents)
    assert not list(ledger.outdir.glob(".metrics.csv.*"))


def test_nothing_is_committed_before_it_is_durable(ledger, make_block, monkeypatch):
    """Power loss keeps what was synced: so each commit must come after the sync of what it speaks of."""
    done = []

    def noted(name, real):
        def call(*args, **kwargs):
            directory = name == "fsync" and stat.S_ISDIR(os.fstat(args[0]).st_mode)
            done.append("fsync directory" if directory else name)
            return real(*args, **kwargs)

        return call

    ledger.add(make_block(["a"], [[1.0]]))
    backend = ledger.opened()
    for name in ("pwrite", "fsync", "replace"):
        monkeypatch.setattr(os, name, noted(name, getattr(os, name)))
    backend.deliver(ledger.entries, lambda state: done.append("commit"))
    backend.close()
    new_generation = ["pwrite", "fsync", "fsync directory", "commit", "replace", "fsync directory"]
    assert done == [*new_generation, "pwrite", "fsync"]


def test_several_new_columns_in_a_slice_rewrite_the_file_once(ledger, make_block):
    generations = []
    ledger.add(make_block(["a"], [[1.0]]))
    for name in "bcd":
        ledger.add(make_block([name], [[1.0]]))
    backend = ledger.opened()
    ledger.deliver(backend, 1)
    backend.deliver(ledger.entries[1:], generations.append)
    assert len(generations) == 1
    backend.close()


def test_a_file_larger_than_a_copy_chunk_is_widened_line_by_line(ledger, make_block):
    contents = [
        make_block([f"m{i}" for i in range(50)], [[i / 7 + k for i in range(50)] for k in range(1500)]),
        make_block(["late"], [[1.0]], first_step=1500),
    ]
    for content in contents:
        ledger.add(content)
    backend = ledger.opened()
    ledger.deliver(backend, 1)
    ledger.deliver(backend, 1)
    backend.close()
    assert (ledger.outdir / "metrics.csv").stat().st_size > 1024 * 1024
    check(ledger.outdir / "metrics.csv", contents)


# ---- what somebody else did to the file ----


def test_a_removed_file_is_begun_anew_with_the_same_columns(ledger, make_block):
    ledger.add(make_block(["a", "b"], [[1.0, 2.0]]))
    ledger.deliver_all().unlink()
    ledger.add(make_block(["b"], [[3.0]], first_step=1))
    assert ledger.deliver_all().read_text() == "step,a,b\n1,,3.0\n"


def test_a_file_removed_while_it_is_open_is_begun_anew(ledger, make_block):
    ledger.add(make_block(["a"], [[1.0]]))
    ledger.add(make_block(["a"], [[2.0]], first_step=1))
    backend = ledger.opened()
    ledger.deliver(backend, 1)
    (ledger.outdir / "metrics.csv").unlink()
    ledger.deliver(backend, 1)
    backend.close()
    assert (ledger.outdir / "metrics.csv").read_text() == "step,a\n1,2.0\n"


def test_a_file_that_somebody_cut_short_continues_on_a_new_line(ledger, make_block):
    ledger.add(make_block(["a"], [[1.0], [2.0]]))
    path = ledger.deliver_all()
    path.write_text("step,a\n0,1.")
    ledger.add(make_block(["a"], [[3.0]], first_step=2))
    assert ledger.deliver_all().read_text() == "step,a\n0,1.\n2,3.0\n"


def test_a_file_with_another_header_is_put_aside_not_overwritten(ledger, make_block):
    ledger.add(make_block(["a"], [[1.0]]))
    path = ledger.deliver_all()
    path.write_text("my,own\n1,2\n")
    ledger.add(make_block(["a"], [[3.0]], first_step=1))
    assert ledger.deliver_all().read_text() == "step,a\n1,3.0\n"
    assert path.with_name("metrics.found-1.csv").read_text() == "my,own\n1,2\n"


def test_in_a_later_epoch_nothing_is_cut_off_and_the_next_crash_doubles_nothing(ledger, make_block):
    ledger.add(make_block(["a"], [[1.0]]))
    path = ledger.deliver_all()
    path.write_bytes(path.read_bytes() + b"1,2.0\n2,3")
    ledger.epoch = 2
    ledger.add(make_block(["a"], [[4.0]], first_step=3))
    backend = ledger.opened()
    ledger.deliver(backend, 1, commit=False)
    backend.close()
    ledger.deliver_all()
    assert path.read_text() == "step,a\n0,1.0\n1,2.0\n2,3\n3,4.0\n"


def test_without_a_state_the_run_s_own_earlier_rows_are_kept(ledger, make_block, make_ledger):
    ledger.add(make_block(["a"], [[1.0]]))
    path = ledger.deliver_all()
    resumed = make_ledger(ledger.outdir)
    resumed.add(make_block(["b"], [[2.0]], first_step=1))
    backend = resumed.opened()
    resumed.deliver(backend, 1, commit=False)
    backend.close()
    resumed.deliver_all()
    assert path.read_text() == "step,a,b\n0,1.0,\n1,,2.0\n"


def test_the_end_changes_no_file(ledger, make_block):
    ledger.add(make_block(["a"], [[1.0]]))
    before = ledger.deliver_all().read_bytes()
    backend = ledger.opened()
    end = type(ledger.entries[0])(2, EntryKind.END, b'{"status": "FINISHED", "reason": ""}')
    assert backend.deliver([end], ledger.set_state) == ledger.state
    backend.close()
    assert (ledger.outdir / "metrics.csv").read_bytes() == before

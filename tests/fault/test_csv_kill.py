"""metrics.csv has each record once, though the delivering process is killed again and again.

The process under test is this file, run as a script: a real pump and CSV backend whose outbox and
cursor live in a small SQLite file. The test kills it with SIGKILL after some commits, or has it
kill itself at a chosen step of a header's growth, and starts it again on the same files.
"""

import csv
import json
import os
import random
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.csv.backend import CsvBackend
from tracker_daemon.delivery.cursor import Cursor
from tracker_daemon.delivery.health import DeliveryState
from tracker_daemon.delivery.pump import Pump
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol.backoff import Backoff

WITHIN_S = 60.0
ENTRIES = 240
ROWS = 25
NEW_COLUMN_EVERY = 12
SLICE = 3


def columns_at(entry):
    return ["loss", "lr", *(f"late{k}" for k in range(1 + entry // NEW_COLUMN_EVERY))]


def block_at(entry):
    columns = columns_at(entry)
    steps = np.arange(entry * ROWS, (entry + 1) * ROWS, dtype=np.int64)
    values = steps[:, None] / np.arange(3, 3 + len(columns))[None, :]
    zeros = np.zeros(ROWS, np.int64)
    return RecordBlock(int(steps[0]), 1, tuple(columns), steps, zeros, values)


def outbox():
    entries = [(EntryKind.RECORDS, block_at(n).to_bytes()) for n in range(ENTRIES)]
    entries.insert(50, (EntryKind.CONFIG, b'{"lr": 0.1, "seed": 1}'))
    entries.insert(200, (EntryKind.CONFIG, b'{"lr": 0.2}'))
    entries.append((EntryKind.END, b'{"status": "FINISHED", "reason": ""}'))
    return [OutboxEntry(n, kind, payload) for n, (kind, payload) in enumerate(entries, 1)]


def check_files(outdir):
    with (outdir / "metrics.csv").open(newline="") as file:
        reader = csv.DictReader(file)
        assert reader.fieldnames == ["step", *columns_at(ENTRIES - 1)]
        rows = list(reader)
    assert [int(row.pop("step")) for row in rows] == list(range(ENTRIES * ROWS))
    for step, row in enumerate(rows):
        own = columns_at(step // ROWS)
        assert [float(row[name]) for name in own] == [step / (3 + k) for k in range(len(own))]
        assert all(cell == "" for name, cell in row.items() if name not in own)
    assert json.loads((outdir / "config.json").read_text()) == {"lr": 0.2, "seed": 1}
    assert not list(outdir.glob(".metrics.csv.*"))


# ---- the process that is killed ----


def kill_itself_at(name, count):
    """Replace ``os.<name>`` so that its ``count``-th call never comes to pass."""
    real, left = getattr(os, name), [count]

    def call(*args, **kwargs):
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return real(*args, **kwargs)

    setattr(os, name, call)


def deliver(directory, kill_at=None, kill_count=0):
    database = sqlite3.connect(directory / "cursor.db", isolation_level=None, check_same_thread=False)
    database.executescript("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;")
    database.execute("CREATE TABLE IF NOT EXISTS cursor (id INTEGER PRIMARY KEY, p, s, d, a)")
    found = database.execute("SELECT p, s, d, a FROM cursor").fetchone()
    entries = outbox()
    if found and found[0] == len(entries):
        print(*found[::2])
        return
    if kill_at:
        kill_itself_at(kill_at, kill_count)

    def commit(*cursor):
        database.execute("REPLACE INTO cursor VALUES (1, ?, ?, ?, ?)", cursor)
        print(*cursor[::2], flush=True)

    pump = Pump(
        CsvBackend(),
        RunDescription("run", "project", "name", directory / "out"),
        Cursor(*found) if found else None,
        read=lambda after: entries[after : after + SLICE],
        commit=commit,
    )
    pump.start()
    while not pump.finished:
        assert pump.drain(time.monotonic() + WITHIN_S)


def deliver_with_files_limited(directory):
    """The file system takes 40,000 bytes for a file, as if it were full; then it takes all."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, hard))
    entries, cursors = outbox(), []
    pump = Pump(
        CsvBackend(),
        RunDescription("run", "project", "name", directory / "out"),
        read=lambda after: entries[after : after + SLICE],
        commit=lambda *cursor: cursors.append(cursor),
        backoff=Backoff(0.001, 0.01),
    )
    pump.start()
    deadline = time.monotonic() + WITHIN_S
    while pump.health().state is not DeliveryState.RETRYING:
        assert not pump.drain(time.monotonic() + 0.01), "all was delivered into limited files"
        assert time.monotonic() < deadline
    print(pump.health().reason, flush=True)
    resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
    while not pump.finished:
        assert pump.drain(time.monotonic() + WITHIN_S)
    assert pump.health().delivered_records == ENTRIES * ROWS


# ---- the tests ----


def start(directory, *arguments):
    command = [sys.executable, __file__, str(directory), *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def finish(directory):
    with start(directory) as process:
        last = process.stdout.read().splitlines()[-1]
        assert process.wait(WITHIN_S) == 0
    assert last.split()[1] == str(ENTRIES * ROWS)


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_killed_after_any_commit_each_record_is_there_once(tmp_path, seed):
    draw = random.Random(seed)
    for _ in range(5):
        with start(tmp_path) as process:
            for _ in range(draw.randint(1, 25)):
                process.stdout.readline()
            process.kill()
            # Killed, it is; unless it had delivered everything before.
            assert process.wait(WITHIN_S) in {-signal.SIGKILL, 0}
    finish(tmp_path)
    check_files(tmp_path / "out")


@pytest.mark.long
def test_killed_at_any_step_of_a_header_s_growth_each_record_is_there_once(tmp_path):
    for step, count in [("replace", 1), ("fsync", 4), ("pwrite", 7), ("replace", 2), ("pread", 3)] * 2:
        with start(tmp_path, step, count) as process:
            process.stdout.read()
            assert process.wait(WITHIN_S) == -signal.SIGKILL
    finish(tmp_path)
    check_files(tmp_path / "out")


def test_a_file_system_that_takes_no_more_delays_the_records_and_loses_none(tmp_path):
    with start(tmp_path, "limited") as process:
        said = process.stdout.read()
        assert process.wait(WITHIN_S) == 0
    assert "cannot write" in said
    assert "ulimit -f" in said
    check_files(tmp_path / "out")


if __name__ == "__main__":
    place, what, *rest = Path(sys.argv[1]), *sys.argv[2:], ""
    if what == "limited":
        deliver_with_files_limited(place)
    elif what:
        deliver(place, what, int(rest[0]))
    else:
        deliver(place)

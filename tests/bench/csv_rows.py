"""CSV over 200,000 rows: does the last tenth cost what the first does?"""

from __future__ import annotations

import time
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.csv.backend import CsvBackend
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

ROWS, COLUMNS, ROWS_PER_DELIVERY = 200_000, 11, 500


def _entries(rows: int) -> list[OutboxEntry]:
    values = np.random.default_rng(0).normal(size=(ROWS_PER_DELIVERY, COLUMNS))
    names = tuple(f"metric_{i}" for i in range(COLUMNS))
    zeros = np.zeros(ROWS_PER_DELIVERY, np.int64)
    entries = []
    for number, first in enumerate(range(0, rows, ROWS_PER_DELIVERY), 1):
        steps = np.arange(first, first + ROWS_PER_DELIVERY)
        block = RecordBlock(first + 1, 1, names, steps, zeros, values)
        entries.append(OutboxEntry(number, EntryKind.RECORDS, block.to_bytes()))
    return entries


def main(scale: float = 1.0) -> None:
    with TemporaryDirectory(prefix="tracker-bench-") as name:
        backend = CsvBackend()
        backend.open(RunDescription("bench", "bench", "bench", Path(name)), None)
        seconds = []
        for entry in _entries(max(10 * ROWS_PER_DELIVERY, int(ROWS * scale))):
            begin = time.perf_counter()
            backend.deliver([entry], lambda state: None)
            seconds.append(time.perf_counter() - begin)
        backend.close()
        lines = sum(1 for _ in (Path(name) / "metrics.csv").open())
    tenth = len(seconds) // 10
    first, last = sum(seconds[:tenth]), sum(seconds[-tenth:])
    per_row = sum(seconds) / (lines - 1)
    print(f"{lines - 1} rows of {COLUMNS} columns: {per_row * 1e6:.1f} µs a row, each fsync included")
    print(f"first tenth {first:.3f} s, last tenth {last:.3f} s, ratio {last / first:.2f}")

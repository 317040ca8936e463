"""kill -9 of a process that journals: everything it acknowledged is there, once and in order."""

import os
import random
import signal
import subprocess
import sys
import textwrap
import threading
from pathlib import Path

import pytest

from tests.support.journal_scene import cursor_of, transaction
from tracker_daemon.journal import EventKind, Journal, RunRow, StreamRow

STREAMS = [bytes([index]) * 16 for index in range(4)]
APPENDER = """
    import os, random, sys
    from pathlib import Path
    from tracker_daemon.journal import Event, EventKind, Journal

    journal = Journal.open(Path(sys.argv[1]), history_bytes=int(sys.argv[2]))
    draw = random.Random(int(sys.argv[3]))
    (run,) = journal.runs()
    next_sequence = {row.stream_id: row.next_sequence for row in journal.streams()}
    while True:
        journal.begin()
        events, acknowledged = [], []
        for stream in draw.sample(sorted(next_sequence), draw.randint(1, 4)):
            for _ in range(draw.randint(1, 3)):
                sequence = next_sequence[stream]
                payload = b"%d:" % sequence + bytes(draw.choice([10, 1000, 40_000, 130_000]))
                events.append(Event(run.id, EventKind.BATCH, stream, sequence, payload))
                acknowledged.append(b"%d %d\\n" % (stream[0], sequence))
                next_sequence[stream] = sequence + 1
        positions = journal.append(events, tick=journal.next_tick, time_ns=0)
        for event in events:
            number = journal.put_outbox(run.id, 1, event.payload, 1)
        if draw.random() < 0.2:
            journal.put_snapshot(run.id, positions[-1], b"up to %d" % positions[-1])
            journal.put_cursor(run.id, "csv", number, b"%d" % number, number)
        journal.reclaim()
        journal.commit()
        # One unbuffered write, after the commit: what a client would be told.
        os.write(1, b"".join(acknowledged))
"""


def prepare(directory: Path) -> None:
    journal = Journal.open(directory, history_bytes=1)
    with transaction(journal):
        run = journal.insert_run(RunRow(0, "r", "l", "p", "n", 0, "/o", "{}"))
        journal.put_cursor(run, "csv", 0, b"0", 0)
        for rank, stream in enumerate(STREAMS):
            journal.insert_stream(StreamRow(stream, run, rank, 1))
    journal.close()


def append_until_killed(directory: Path, history_bytes: int, draw: random.Random) -> dict[int, int]:
    """Run the appender, kill it at a random moment, and return each stream's last acknowledged sequence."""
    child = subprocess.Popen(
        [
            sys.executable,
            "-c",
            textwrap.dedent(APPENDER),
            str(directory),
            str(history_bytes),
            str(draw.randrange(2**32)),
        ],
        stdout=subprocess.PIPE,
    )
    first = child.stdout.readline()
    assert first, "the appender did not start"
    timer = threading.Timer(draw.uniform(0.0, 0.4), os.kill, (child.pid, signal.SIGKILL))
    timer.start()
    lines = [first, *child.stdout]
    assert child.wait(timeout=30) == -signal.SIGKILL
    timer.join()
    child.stdout.close()
    last: dict[int, int] = {}
    for line in lines:
        if line.endswith(b"\n"):
            stream, sequence = map(int, line.split())
            last[stream] = sequence
    return last


def check_sequences(journal: Journal, acknowledged: dict[int, int]) -> None:
    for row in journal.streams():
        assert row.next_sequence > acknowledged.get(row.stream_id[0], 0)


@pytest.mark.parametrize("seed", [1, 2])
def test_everything_acknowledged_survives_repeated_kills_exactly_once(tmp_path, seed):
    prepare(tmp_path)
    draw = random.Random(seed)
    acknowledged: dict[int, int] = {}
    for _ in range(4):
        acknowledged.update(append_until_killed(tmp_path, 1 << 40, draw))
        journal = Journal.open(tmp_path, history_bytes=1 << 40)
        events = journal.events_after(1, 0, limit_bytes=1 << 40)
        assert [event.position for event in events] == list(range(1, len(events) + 1))
        assert all(event.kind is EventKind.BATCH for event in events)
        for row in journal.streams():
            found = [event.sequence for event in events if event.stream == row.stream_id]
            assert found == list(range(1, row.next_sequence))
        for event in events:
            assert event.payload.startswith(b"%d:" % event.sequence)
        # What one transaction holds is there together or not at all.
        assert journal.backlog(1).entries == len(events)
        check_sequences(journal, acknowledged)
        journal.close()
    assert acknowledged


def test_kills_in_the_midst_of_reclaiming_lose_nothing_that_is_needed(tmp_path):
    prepare(tmp_path)
    draw = random.Random(3)
    acknowledged: dict[int, int] = {}
    for _ in range(4):
        acknowledged.update(append_until_killed(tmp_path, 400_000, draw))
        journal = Journal.open(tmp_path, history_bytes=400_000)
        check_sequences(journal, acknowledged)
        appended = sum(row.next_sequence - 1 for row in journal.streams())
        position, payload = journal.snapshot(1) or (0, b"up to 0")
        assert payload == b"up to %d" % position
        after = [event.position for event in journal.events_after(1, position, limit_bytes=1 << 40)]
        assert after == list(range(position + 1, appended + 1))
        cursor = cursor_of(journal, 1, "csv")
        assert cursor.state == b"%d" % cursor.position
        pending = [entry.number for entry in journal.outbox_after(1, cursor.position, limit_bytes=1 << 40)]
        assert pending == list(range(cursor.position + 1, appended + 1))
        assert journal.backlog(1).records == appended
        journal.close()
    journal = Journal.open(tmp_path, history_bytes=400_000)
    assert journal.reclaimed(1).events > 0
    journal.close()

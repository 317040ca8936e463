"""The books that the status shows balance, whatever came."""

from __future__ import annotations

import random

import pytest

from tests.support.ingest.messages import body, hello, stream_id
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.journal.event import EventKind, Gap
from tracker_daemon.recording.recorder import Submission
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run_options import RunOptions
from tracker_daemon.status.document import DaemonStatus
from tracker_daemon.status.facts import read_facts
from tracker_daemon.status.report import status_document


def document(rig, registry):
    facts = rig.result(rig.recorder.call(lambda j: read_facts(j, registry, rig.recorder.summary_of)))
    return status_document(DaemonStatus(), facts, registry, PumpSet(lambda work: work))


def check(run):
    books = run.books
    assert books.received == books.folded + books.open + books.late + books.rejected
    for backend in run.backends:
        assert run.records.emitted == backend.delivered + backend.pending + backend.set_aside
    return books


def registered(rig, registry):
    """A run that both the registry and the journal know."""
    run = None
    for rank in (0, 1):
        run = registry.admit(hello(rank, rank)).stream.run
        rig.join(run.live, rank, rank)
    return run


@pytest.mark.parametrize("seed", range(4))
def test_the_books_balance_at_all_times_and_over_a_restart(rig, seed):
    draw = random.Random(seed)
    rig.open().start([])
    registry = Registry(RunOptions("memory", "/out", 0, ""), rig.run().rules)
    run = registered(rig, registry)
    sent, sequences = 0, [1, 1]
    rejected = Submission(run.live, EventKind.REJECTED, stream_id(0), 1, b"why")
    rig.recorder.submit(rejected)
    sequences[0] += 1
    for turn in range(40):
        rank = draw.randrange(2)
        steps = draw.sample(range(12), draw.randint(1, 5))
        rows = {step: draw.random() for step in (sorted(steps) if draw.random() < 0.7 else steps)}
        rig.batch(run.live, rank, sequences[rank], body(rows, ["loss"], first_row=12 * turn))
        sequences[rank] += 1
        sent += len(rows)
        if turn % 10 == 9:
            payload = Gap(sequences[rank] + 3, 5).to_bytes()
            rig.recorder.submit(
                Submission(run.live, EventKind.GAP, stream_id(rank), sequences[rank], payload)
            )
            sequences[rank] += 4
        if draw.random() < 0.3:
            (shown,) = document(rig, registry).runs
            assert check(shown).received == sent
    for rank in (0, 1):
        rig.batch(run.live, rank, sequences[rank], body(finish=0))
    (before,) = document(rig, registry).runs
    books = check(before)
    assert (books.received, books.open, books.gap_points) == (sent, 0, 20)
    assert before.status == "FINISHED"
    assert before.records.emitted > 0

    rig.close()
    rig.open()
    again = Registry(RunOptions("memory", "/out", 0, ""), rig.run().rules)
    for row in rig.journal.runs():
        again.restore(row, rig.journal.streams(row.id))
    rig.recorder.start([])
    (after,) = document(rig, again).runs
    assert after.books == books
    assert (after.status, after.records, after.world_size) == ("FINISHED", before.records, 2)


def test_a_run_that_is_not_journalled_yet_is_not_shown(rig):
    rig.open().start([])
    registry = Registry(RunOptions("memory", "/out", 0, ""), rig.run().rules)
    registry.admit(hello(1))
    assert document(rig, registry).runs == ()

"""One connection: what it takes, what it refuses, and what it may acknowledge."""

from __future__ import annotations

import asyncio
import zlib

import pytest

from tests.support.ingest.messages import body, hello
from tracker_daemon.errors import ProtocolError
from tracker_daemon.ingest.session import BrokenStream, Session, SessionContext
from tracker_daemon.journal.event import SEQUENCE_MAX
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run_options import RunOptions
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb


def batch(sequence, rows=None, names=(), **fields):
    payload = body(rows, names, **fields)
    message = pb.Batch(sequence=sequence, crc32=zlib.crc32(payload), body=payload)
    return pb.ClientMessage(batch=message)


def gap(first, last, points=0):
    return pb.ClientMessage(gap=pb.Gap(from_sequence=first, to_sequence=last, points=points))


class Desk:
    """A registry and a recorder, and connections to them."""

    def __init__(self, rig):
        self.rig = rig
        self.registry = Registry(RunOptions("memory", "/out", 0, ""), rig.run().rules)
        rig.open().start([])

    def session(self, message):
        admission = self.registry.admit(message)
        session = Session(
            admission, SessionContext(self.rig.recorder, asyncio.get_running_loop(), lambda: 200)
        )
        self.registry.connect(admission.stream, session)
        return session

    async def come(self, *arguments, last_acknowledged=0, **keywords):
        message = hello(*arguments, **keywords)
        message.last_acknowledged = last_acknowledged
        session = self.session(message)
        welcome = await session.welcome(
            message, new_backends={"memory": b""}, script_backends=[], version="1"
        )
        return session, welcome.welcome

    async def committed(self):
        await asyncio.wrap_future(self.rig.recorder.call(lambda _: None))


@pytest.fixture
def play(rig):
    """Runs a scenario that is a coroutine over a desk."""
    return lambda scenario: asyncio.run(scenario(Desk(rig)))


def test_a_welcome_claims_nothing_that_its_predecessor_brings_meanwhile(play, rig):
    async def scenario(desk):
        first, _ = await desk.come(1, names=["loss"])
        first.take(batch(1, {0: 1.0}))
        message = hello(1, names=["loss"])
        second = desk.session(message)
        coming = asyncio.create_task(
            second.welcome(message, new_backends={}, script_backends=[], version="1")
        )
        await asyncio.sleep(0)  # the Hello is on its way to the journal
        first.take(batch(2, {1: 1.0}))  # what the dead connection still had in its buffers
        welcome = (await coming).welcome
        assert welcome.next_sequence == 2
        second.take(batch(2, {1: 1.0}))
        await desk.committed()
        assert rig.journal.streams()[0].next_sequence == 3
        # Its own connection is told: what the dead one had taken would never be acknowledged here.
        assert second.stream.duplicates == 0
        assert second.all_committed

    play(scenario)


def test_each_kind_of_disorder_breaks_the_stream_and_uses_up_nothing(play, rig):
    async def scenario(desk):
        session, _ = await desk.come(1, names=["loss"])
        wrong = batch(1, {0: 1.0})
        wrong.batch.crc32 ^= 1
        for message in (batch(2, {0: 1.0}), wrong, gap(2, 3), gap(1, 0)):
            with pytest.raises(BrokenStream):
                session.take(message)
        for message in (gap(1, SEQUENCE_MAX), gap(1, 2**64 - 1), gap(1, 1, 2**64 - 1)):
            with pytest.raises(ProtocolError):
                session.take(message)
        for nonsense in (pb.ClientMessage(), pb.ClientMessage(hello=hello(1))):
            with pytest.raises(ProtocolError):
                session.take(nonsense)
        session.take(batch(1, {0: 1.0}))
        await desk.committed()
        assert rig.journal.streams()[0].next_sequence == 2
        assert not rig.failures

    play(scenario)


def test_sequences_end_before_the_journal_s_bound(play, rig):
    async def scenario(desk):
        session, _ = await desk.come(1, names=["loss"])
        session.take(gap(1, SEQUENCE_MAX - 2))
        with pytest.raises(ProtocolError):
            session.take(batch(SEQUENCE_MAX - 1, {0: 1.0}))
        _, welcome = await desk.come(2, 1, last_acknowledged=SEQUENCE_MAX - 3)
        assert welcome.next_sequence == SEQUENCE_MAX - 2
        assert not rig.failures

    play(scenario)


def test_what_came_before_is_counted_and_changes_nothing(play, rig):
    async def scenario(desk):
        session, _ = await desk.come(1, names=["loss"])
        session.take(batch(1, {0: 1.0}))
        session.take(gap(2, 4, 9))
        for message in (batch(1, {0: 5.0}), batch(3, {0: 5.0}), gap(2, 4, 9), batch(0)):
            session.take(message)
        assert session.stream.duplicates == 4
        await desk.committed()
        summary = rig.recorder.summary_of(session.stream.run.live)
        assert (summary.books["received"], summary.books["gap_points"]) == (1, 9)
        assert session.all_committed

    play(scenario)


@pytest.mark.parametrize("fields", [{"names": ["x"]}, {"dropped_points": 2**64 - 1}])
def test_a_batch_beyond_the_bounds_is_rejected_whole_and_the_rank_is_told(play, rig, monkeypatch, fields):
    monkeypatch.setattr(limits, "METRICS_PER_RUN_MAX", 1)

    async def scenario(desk):
        session, _ = await desk.come(1, names=["loss"])
        with pytest.raises(BrokenStream, match="rejected"):
            session.take(batch(1, {0: 1.0}, **fields))
        next_session, welcome = await desk.come(1, names=["loss"])
        assert welcome.next_sequence == 2
        next_session.close()
        (told,) = [reply async for reply in next_session.replies() if reply.HasField("notice")]
        assert "the daemon cannot decode what this rank has sent" in told.notice.text
        assert not session.stream.rejections
        assert not rig.failures

    play(scenario)


def test_a_loss_is_journalled_with_the_hello_that_shows_it(play, rig):
    async def scenario(desk):
        _, welcome = await desk.come(1, last_acknowledged=7, names=["loss"])
        assert welcome.next_sequence == 8
        session, welcome = await desk.come(2, 1, last_acknowledged=3, names=["loss"])
        assert welcome.next_sequence == 4
        assert rig.journal.epoch == 2
        run = session.stream.run
        assert [text for _, text in run.live.notices] == [
            "the journal has lost batches 1 to 7 of rank 0, which had been acknowledged",
            "the journal has lost batches 1 to 3 of rank 1, which had been acknowledged",
        ]
        # Known now, and told only once.
        _, welcome = await desk.come(1, last_acknowledged=7, names=["loss"])
        assert welcome.next_sequence == 8
        assert rig.journal.epoch == 2
        assert len(run.live.notices) == 2

    play(scenario)


def test_a_resumed_run_is_running_again_in_memory_and_in_the_journal(play, rig):
    async def scenario(desk):
        first, _ = await desk.come(1, world=1, run_id="mine", names=["loss"])
        run = first.stream.run
        first.take(batch(1, {0: 1.0}, finish=3))
        await desk.committed()
        assert (run.live.view.status, run.live.view.reason) == (
            "FAILED",
            "rank 0 on node0 (last step 0) exited with code 3",
        )
        desk.registry.disconnect(first.stream, first)
        _, welcome = await desk.come(2, world=1, run_id="mine")
        assert (welcome.attempt, welcome.next_step) == (2, 1)
        (row,) = rig.journal.runs()
        assert (row.status, row.reason, row.ended_ns, row.attempt) == ("RUNNING", "", 0, 2)
        assert (run.live.view.status, run.live.view.reason) == ("RUNNING", "")
        assert run.running
        assert not run.reopening

    play(scenario)


def test_a_rank_that_joins_as_its_run_ends_does_not_half_reopen_it(play, rig):
    async def scenario(desk):
        first, _ = await desk.come(1, world=0, names=["loss"])
        run = first.stream.run
        message = hello(2, 1, world=0)
        late = desk.session(message)  # let in while the run was running
        first.take(batch(1, {0: 1.0}, finish=0))
        await desk.committed()
        assert run.live.view.status == "FINISHED"
        await late.welcome(message, new_backends={}, script_backends=[], version="1")
        (row,) = rig.journal.runs()
        assert row.status == run.live.view.status == "FINISHED"

    play(scenario)

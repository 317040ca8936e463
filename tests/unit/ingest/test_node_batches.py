"""What a node's daemon may forward, what a rank may not, and how its ranks' ends are journalled."""

from __future__ import annotations

import asyncio
import sqlite3
import struct

import pytest

from tests.support.ingest.messages import batch_message as batch
from tests.support.ingest.messages import body, hello, stream_id
from tracker_daemon.ingest.session import BrokenStream, Session, SessionContext
from tracker_protocol.v1 import tracker_pb2 as pb


def ends(**exit_codes):
    """A node's batch in which ranks end: their exit codes by ``r<stream>``."""
    said = pb.BatchBody()
    for name, code in exit_codes.items():
        said.parts.add(stream_id=stream_id(int(name[1:])), body=pb.BatchBody(finish=code))
    return said.SerializeToString()


# ---- what a node's batches may hold --------------------------------------------------------------

STEPS, TIMES = struct.pack("<q", 0), struct.pack("<q", 0)
OF_ITS_OWN = {
    "rows": body({0: 1.0}),
    "texts": body(texts=[pb.TextBlock(keys=[0], steps=STEPS, times=TIMES, rows=STEPS, values=["a"])]),
    "a configuration": body(config=["{}"]),
    "an item": body(items=[pb.Item(kind="table", key="t", document="{}")]),
    "an end": body(finish=0),
}
FORWARDED = {
    "a rank's part": body(parts=[pb.RankPart(stream_id=stream_id(2))]),
    "a contribution": body(
        contributions=[
            pb.Contribution(
                attempt=1, first_rank=1, ranks=b"\1", keys=[0], steps=STEPS, times=TIMES, bars=STEPS,
                values=struct.pack("<d", 1.0),
            )
        ]
    ),
    "progress": body(progress=[pb.Progress(attempt=1)]),
    "automatic steps": body(automatic_keys=[pb.StepKeys(keys=[0], steps=STEPS)]),
    "a notice": body(notices=["hear"]),
}  # fmt: skip


async def rejected(desk, session, payload):
    """Whether the session's first batch, ``payload``, is rejected, and journalled as such."""
    with pytest.raises(BrokenStream, match="forwards nothing"):
        session.take(batch(1, payload))
    await asyncio.wrap_future(desk.recorder.call(lambda _: None))
    rows = {row.stream_id: row for row in desk.rig.journal.streams()}
    fold = await asyncio.wrap_future(desk.recorder.call(lambda _: desk.recorder.fold_of(desk.run.live)))
    return rows[session.stream.stream_id].next_sequence == 2 and fold.books.rejected_batches == 1


@pytest.mark.parametrize("kind", OF_ITS_OWN)
def test_a_node_s_daemon_has_nothing_of_its_own_to_say(play_nodes, kind):
    async def scenario(desk):
        session = await desk.node(names=["loss"])
        assert await rejected(desk, session, OF_ITS_OWN[kind])

    play_nodes(scenario)


@pytest.mark.parametrize("kind", FORWARDED)
def test_a_rank_forwards_nothing(play_nodes, kind):
    async def scenario(desk):
        message = hello(9, 1, key="another launch", names=["loss"])
        admission = desk.registry.admit(message)
        session = Session(admission, SessionContext(desk.recorder, asyncio.get_running_loop(), lambda: 200))
        await session.welcome(message, new_backends={}, script_backends=[], version="1")
        desk.run = admission.stream.run
        assert await rejected(desk, session, FORWARDED[kind])

    play_nodes(scenario)


@pytest.mark.parametrize("kind", FORWARDED)
def test_what_is_forwarded_comes_on_a_node_s_stream(play_nodes, kind):
    async def scenario(desk):
        session = await desk.node(names=["loss"])
        session.take(batch(1, FORWARDED[kind]))
        await desk.committed(session)
        assert session.committed == 1
        assert not desk.rig.failures

    play_nodes(scenario)


# ---- ends of ranks -------------------------------------------------------------------------------


def stored(journal):
    return {row.stream_id: (row.next_sequence, row.finished, row.exit_code) for row in journal.streams()}


def test_the_ends_of_ranks_are_journalled_with_the_batch_that_tells_them(play_nodes, rig):
    async def scenario(desk):
        session = await desk.node()
        session.take(batch(1, ends(r1=0, r2=3)))
        assert all(desk.run.streams[stream_id(stream)].finished for stream in (1, 2))
        assert not session.stream.finished, "the node itself goes on"
        await desk.committed(session)
        rows = stored(rig.journal)
        assert rows[stream_id(1)] == (1, True, 0)
        assert rows[stream_id(2)] == (1, True, 3)
        assert rows[stream_id(100)] == (2, False, 0)
        assert desk.run.live.view.status == "FAILED"

    play_nodes(scenario)


def test_neither_the_batch_nor_the_ends_in_it_outlive_a_commit_that_fails(play_nodes, rig):
    class FailsToCommit(sqlite3.Connection):
        armed = False

        def execute(self, sql, *arguments):
            if sql == "COMMIT" and FailsToCommit.armed:
                raise sqlite3.OperationalError("disk I/O error")
            return super().execute(sql, *arguments)

    async def scenario(desk):
        session = await desk.node()
        FailsToCommit.armed = True
        session.take(batch(1, ends(r1=3)))
        await asyncio.to_thread(rig.wait, lambda: rig.failures)

    play_nodes(scenario, FailsToCommit)
    rig.close()
    rig.open()
    rows = stored(rig.journal)
    assert rows[stream_id(1)] == (1, False, 0)
    assert rows[stream_id(100)] == (1, False, 0)


def test_the_end_of_a_stream_that_is_not_known_is_passed_over(play_nodes, rig):
    async def scenario(desk):
        session = await desk.node()
        session.take(batch(1, ends(r55=3, r1=0)))
        await desk.committed(session)
        assert not rig.failures
        assert stored(rig.journal)[stream_id(1)] == (1, True, 0)
        assert stream_id(55) not in stored(rig.journal)

    play_nodes(scenario)

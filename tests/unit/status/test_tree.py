"""What the status shows in a tree: at a node's daemon of what it forwards, at the root of who forwards."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.support.ingest.messages import batch_message, body, hello, stream_id
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.journal.event import EventKind
from tracker_daemon.journal.rows import StreamRow
from tracker_daemon.recording import events
from tracker_daemon.recording.recorder import Submission
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run_options import RootBackends, RunOptions
from tracker_daemon.status.document import DaemonStatus
from tracker_daemon.status.facts import read_facts
from tracker_daemon.status.report import status_document, summary_line
from tracker_protocol.v1 import tracker_pb2 as pb

OPTIONS = RunOptions("csv", "/out", 0, "", forwarding=RootBackends(("csv",), ()), described_by=0)
DIGEST = b"d" * 32


class NodeSide:
    """A node's daemon with two of a run's four ranks, on streams 1 and 2."""

    def __init__(self, rig):
        self.rig = rig
        rig.open().start([])
        self.registry = Registry(RunOptions("memory", "/out", 0, ""), rig.run().rules)
        self.pumps = PumpSet(lambda work: work)
        for rank in (0, 1):
            self.come(rank)

    def come(self, rank):
        message = hello(rank + 1, rank, world=4, names=["loss"])
        stream = self.registry.admit_decided(message, "r-1", 1, OPTIONS).stream
        self.run = stream.run

        def prepare(journal):
            live = self.run.live
            if not live.row_id:
                live.row_id = journal.insert_run(self.run.row)
                for cursor in ("upstream", "upstream:files"):
                    journal.put_cursor(live.row_id, cursor, 0, b"", 0)
            journal.insert_stream(StreamRow(stream.stream_id, live.row_id, rank, 1))

        event = events.encode(events.HelloEvent(rank, 4, 1, ("loss",)))
        self.rig.recorder.submit(
            Submission(self.run.live, EventKind.HELLO, stream.stream_id, 0, event, prepare=prepare)
        )

    def log(self, rank, sequence, rows=None, **fields):
        self.rig.batch(self.run.live, rank + 1, sequence, body(rows, **fields))

    def cut(self):
        self.rig.recorder.submit(Submission(self.run.live, EventKind.FORWARD, payload=events.encode(1)))

    def deliver(self, entry, batches, cursor="upstream"):
        """The pump has got so far."""
        row_id = self.run.live.row_id
        self.rig.result(self.rig.recorder.call(lambda j: j.put_cursor(row_id, cursor, entry, b"", batches)))

    def facts(self):
        rig = self.rig
        return rig.result(rig.recorder.call(lambda j: read_facts(j, self.registry, rig.recorder.summary_of)))

    def shown(self, facts=None):
        (run,) = status_document(DaemonStatus(), facts or self.facts(), self.registry, self.pumps).runs
        return run


@pytest.fixture
def node(rig):
    return NodeSide(rig)


def counts(run):
    """Of the only backend: emitted, delivered, pending."""
    (backend,) = run.backends
    assert (backend.name, backend.unit) == ("upstream", "batches")
    assert run.records.emitted == backend.delivered + backend.pending + backend.set_aside
    return run.records.emitted, backend.delivered, backend.pending


def test_what_is_only_gathered_counts_as_the_batch_that_it_will_be(node):
    node.log(0, 1, {0: 1.0})
    node.log(1, 1, {0: 2.0})
    assert counts(node.shown()) == (1, 0, 1)
    node.cut()
    assert counts(node.shown()) == (1, 0, 1)
    node.deliver(1, 1)
    assert counts(node.shown()) == (1, 1, 0)
    node.log(0, 2, {1: 1.0})
    assert counts(node.shown()) == (2, 1, 1)


def test_all_counts_are_of_one_moment(node):
    """Else what is made into a batch between two looks would be in neither, and count as delivered."""
    node.log(0, 1, {0: 1.0})
    facts = node.facts()
    node.cut()
    node.rig.flush()
    assert counts(node.shown(facts)) == (1, 0, 1)
    assert counts(node.shown()) == (1, 0, 1)


def test_a_forwarded_run_says_so_and_expects_nobody_here(node):
    run = node.shown()
    assert run.forwarded
    assert run.world_size == 4
    assert [(rank.rank, rank.state) for rank in run.ranks] == [(0, "disconnected"), (1, "disconnected")]
    assert run.nodes == ()


def test_the_books_of_a_forwarded_run_balance(node):
    node.log(0, 1, {0: 1.0, 1: 2.0})
    books = node.shown().books
    assert (books.received, books.open, books.folded) == (2, 2, 0)
    node.cut()
    books = node.shown().books
    assert (books.received, books.open, books.folded) == (2, 0, 2)


def test_the_lane_for_files_is_shown_once_there_are_files_and_counts_items(node):
    assert [backend.name for backend in node.shown().backends] == ["upstream"]
    content = pb.Content(sha256=DIGEST, size_bytes=3, path="x")
    item = pb.Item(kind="artifact", key="model", document="{}", contents=[content])
    node.log(0, 1, items=[item])
    node.cut()
    files = {backend.name: backend for backend in node.shown().backends}["upstream:files"]
    assert (files.unit, files.pending, files.delivered) == ("items", 1, 0)
    entry = node.run.live.view.last_files
    node.deliver(entry, 1, "upstream:files")
    files = {backend.name: backend for backend in node.shown().backends}["upstream:files"]
    assert (files.pending, files.delivered) == (0, 1)


def test_a_run_that_the_root_has_ended_shows_its_end_here(node):
    over = events.encode(events.RunEndedEvent("FAILED", "rank 3 on node3 lost contact"))
    node.rig.recorder.submit(Submission(node.run.live, EventKind.ENDED_BY_ROOT, payload=over))
    run = node.shown()
    assert (run.status, run.reason) == ("FAILED", "rank 3 on node3 lost contact")
    assert run.ended is not None


# ---- at the root ---------------------------------------------------------------------------------


async def seen(desk):
    """The run, and the whole in a line."""
    read = desk.recorder.call(lambda j: read_facts(j, desk.registry, desk.recorder.summary_of))
    facts, pumps = await asyncio.wrap_future(read), PumpSet(lambda work: work)
    (run,) = status_document(DaemonStatus(), facts, desk.registry, pumps).runs
    return run, summary_line(desk.registry, pumps)


def test_the_root_shows_who_forwards_apart_from_the_ranks(play_nodes):
    async def scenario(desk):
        session = await desk.node()
        files = await desk.node(stream=101, files_lane=True)
        session.link.announce(pb.Presence(ranks=[pb.PresentRank(stream_id=stream_id(1))]))
        session.take(batch_message(1, b""))
        await desk.committed(session)
        run, line = await seen(desk)
        assert [(node.host, node.pid, node.state, node.next_sequence) for node in run.nodes] == [
            ("host7", 7, "live", 2), ("host7", 7, "live", 1),
        ]  # fmt: skip
        assert [(rank.rank, rank.state) for rank in run.ranks] == [(0, "live"), (1, "disconnected")]
        assert not run.forwarded
        assert [backend.unit for backend in run.backends] == ["records"]
        assert line == "1 running of 1 runs, 1 ranks connected"
        desk.registry.disconnect(files.stream, files)
        run, _ = await seen(desk)
        assert [node.state for node in run.nodes] == ["live", "disconnected"]

    play_nodes(scenario)


def test_the_document_of_a_tree_is_read_back_as_it_was_written(play_nodes):
    from tracker_daemon.status.document import StatusDocument, decode

    async def scenario(desk):
        await desk.node()
        run, _ = await seen(desk)
        written = StatusDocument(daemon=DaemonStatus(), runs=(run,))
        assert decode(msgspec.json.encode(written)) == written

    play_nodes(scenario)

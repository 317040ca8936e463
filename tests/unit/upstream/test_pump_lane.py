"""A pump's lane: contents go up before their batch, and what goes wrong is told as a pump needs it."""

from __future__ import annotations

import asyncio
import hashlib
from pathlib import Path

import grpc
import pytest

from tests.support.upstream.root_server import NODE, Tied, fill, make_room, until
from tracker_daemon.backends.root import LanePosition
from tracker_daemon.errors import BackendUnavailable, PoisonEntry
from tracker_daemon.files.content_files import content_path
from tracker_daemon.upstream.pump_lane import PumpLane
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

RANK = b"r" * 16
DATA = bytes(range(256)) * 5_000  # three chunks


class Pumped:
    """A pump's lane, as its thread uses it, and a directory of contents."""

    def __init__(self, tied, contents: Path, *, files=True):
        self.contents, self.files = contents, files
        loop = asyncio.get_running_loop()
        self.lane = PumpLane(tied.root, lambda: tied.link, loop, contents, lambda: 1, files=files)

    def keep(self, data):
        """The digest of ``data``, which is among the contents from now on."""
        digest = hashlib.sha256(data).hexdigest()
        path = content_path(self.contents, digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
        return digest

    async def connected(self, tied, count):
        """Returns once the lane is connected, as it is from its first use on."""
        tied.link.lane(LanePosition(1, 0), files=self.files)
        await tied.ready(count)

    async def deliver(self, *arguments):
        await asyncio.to_thread(self.lane.deliver, *arguments)


def item_batch(*contents):
    """A node's batch with one item that has these contents."""
    body = pb.BatchBody()
    item = body.parts.add(stream_id=RANK).body.items.add(kind="artifact", key="model", document="{}")
    for data in contents:
        item.contents.add(sha256=hashlib.sha256(data).digest(), size_bytes=len(data), path="x")
    return body.SerializeToString()


def test_contents_are_at_the_root_before_the_batch_that_has_them(play_with_store, tmp_path):
    async def scenario(server):
        async with Tied(server) as tied:
            await tied.ready()
            pumped = Pumped(tied, tmp_path / "node")
            await pumped.connected(tied, 2)
            digests = [pumped.keep(DATA), pumped.keep(b"small")]
            connection, there = server.connection, []
            take = server.take

            async def look(batch, of):
                there.extend(server.store.path(digest).read_bytes() for digest in digests)
                await take(batch, of)

            server.take = look
            await pumped.deliver(1, 1, [item_batch(DATA, b"small")])
            assert there == [DATA, b"small"]
            assert connection.hello.node.files_lane
            assert connection.sequences == [1]

    play_with_store(scenario)


def test_a_content_that_the_root_has_already_is_not_read_here_again(play_with_store, tmp_path):
    async def scenario(server):
        async with Tied(server) as tied:
            await tied.ready()
            pumped = Pumped(tied, tmp_path / "node")
            await pumped.connected(tied, 2)
            digest = pumped.keep(DATA)
            await pumped.deliver(1, 1, [item_batch(DATA)])
            content_path(tmp_path / "node", digest).unlink()
            await pumped.deliver(1, 2, [item_batch(DATA)])
            assert server.connection.sequences == [1, 2]

    play_with_store(scenario)


def test_a_content_that_the_root_refuses_poisons_its_entry_and_no_batch_goes_up(play_with_store, tmp_path):
    async def scenario(server):
        async with Tied(server) as tied:
            await tied.ready()
            pumped = Pumped(tied, tmp_path / "node")
            await pumped.connected(tied, 2)
            large = bytes(3 << 20)  # the root takes two thirds of that
            pumped.keep(large)
            pumped.keep(b"small")
            with pytest.raises(PoisonEntry, match="content_max_bytes"):
                await pumped.deliver(1, 1, [item_batch(large)])
            assert server.connection.sequences == []
            await pumped.deliver(1, 1, [item_batch(b"small")])
            assert server.connection.sequences == [1]

    play_with_store(scenario)


def test_a_root_that_is_full_of_contents_is_tried_again_later(play_with_store, tmp_path):
    async def scenario(server):
        fill(server.store)
        async with Tied(server) as tied:
            await tied.ready()
            pumped = Pumped(tied, tmp_path / "node")
            await pumped.connected(tied, 2)
            pumped.keep(DATA)
            with pytest.raises(BackendUnavailable, match="contents_max_bytes"):
                await pumped.deliver(1, 1, [item_batch(DATA)])
            make_room(server.store)
            await pumped.deliver(1, 1, [item_batch(DATA)])
            assert server.connection.sequences == [1]

    play_with_store(scenario)


def test_a_content_that_is_damaged_here_never_reaches_the_root_as_whole(play_with_store, tmp_path):
    async def scenario(server):
        async with Tied(server) as tied:
            await tied.ready()
            pumped = Pumped(tied, tmp_path / "node")
            await pumped.connected(tied, 2)
            digest = pumped.keep(DATA)
            content_path(tmp_path / "node", digest).write_bytes(DATA[::-1])
            with pytest.raises(BackendUnavailable, match="could not be forwarded"):
                await pumped.deliver(1, 1, [item_batch(DATA)])
            assert server.connection.sequences == []
            assert not server.store.path(digest).exists()

    play_with_store(scenario)


def test_a_lane_for_batches_delivers_without_looking_for_contents(play, tmp_path):
    async def scenario(server):
        async with Tied(server) as tied:
            connection = await tied.ready()
            pumped = Pumped(tied, tmp_path, files=False)
            assert pumped.lane.problem() == "", "nothing has gone wrong before the first use"
            await pumped.deliver(1, 1, [item_batch(DATA), b""])
            assert connection.sequences == [1, 2]
            assert pumped.lane.problem() == ""
            assert pumped.lane.location() == server.address
            server.refusal = grpc.StatusCode.UNAVAILABLE, "not now"
            connection.break_off()
            await until(pumped.lane.problem, "the problem")
            with pytest.raises(BackendUnavailable):
                await pumped.deliver(1, 3, [b""])

    play(scenario)


def test_a_delivery_in_another_epoch_goes_up_as_another_stream(play, tmp_path):
    async def scenario(server):
        async with Tied(server) as tied:
            await tied.ready()
            pumped = Pumped(tied, tmp_path, files=False)
            await pumped.deliver(1, 1, [b"a"])
            await pumped.deliver(2, 1, [b"b"])
            second = await tied.ready(2)
            assert (second.bodies, second.hello.stream_id) == (
                [b"b"], NODE.stream_id("run-1", 2, files=False),
            )  # fmt: skip

    play(scenario)


def test_a_content_goes_up_in_chunks_that_a_message_takes(play_with_store, tmp_path):
    assert len(DATA) > 2 * limits.CONTENT_CHUNK_BYTES
    sizes = []

    async def scenario(server):
        async with Tied(server) as tied:
            await tied.ready()
            pumped = Pumped(tied, tmp_path / "node")
            await pumped.connected(tied, 2)
            pumped.keep(DATA)
            receive = server.store.receive

            def receiving(*arguments):
                reception = receive(*arguments)
                write = reception.write

                def noted(chunk):
                    sizes.append(len(chunk))
                    write(chunk)

                reception.write = noted
                return reception

            server.store.receive = receiving
            await pumped.deliver(1, 1, [item_batch(DATA)])

    play_with_store(scenario)
    assert sum(sizes) == len(DATA)
    assert max(sizes) <= limits.CONTENT_CHUNK_BYTES


def test_a_content_that_is_gone_is_told_with_its_file_and_holds_up_nothing_else(play_with_store, tmp_path):
    async def scenario(server):
        async with Tied(server) as tied:
            await tied.ready()
            pumped = Pumped(tied, tmp_path / "node")
            await pumped.connected(tied, 2)
            digest = pumped.keep(DATA)
            path = content_path(pumped.contents, digest)
            path.unlink()
            with pytest.raises(PoisonEntry, match=f"{path} is gone"):
                await pumped.deliver(1, 1, [item_batch(DATA)])
            pumped.keep(b"other")
            await pumped.deliver(1, 1, [item_batch(b"other")])

    play_with_store(scenario)

"""A stream to the root: what it is when the root is not there."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager

import grpc
import pytest
import structlog

from tracker_daemon.errors import UpstreamUnavailable
from tracker_daemon.upstream.lane_stream import JournalledSequence, LaneStream
from tracker_protocol.v1 import tracker_pb2 as pb


class EndedCall:
    """A call that has ended before anything was sent, as one to a port where nobody listens."""

    async def write(self, _):
        raise asyncio.InvalidStateError("RPC already finished.")

    async def read(self):
        raise grpc.aio.AioRpcError(
            grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "nobody listens"
        )

    def cancel(self):
        return False


class Gone:
    """A root that is not there; ``failed`` is set once a connection has failed."""

    address = "root:1"

    def __init__(self):
        self.failed = asyncio.Event()

    @asynccontextmanager
    async def connection(self):
        try:
            yield self
        except grpc.aio.AioRpcError as error:
            self.failed.set()
            raise UpstreamUnavailable(error.details()) from None

    def stream(self):
        return EndedCall()

    def worked(self, address):
        pytest.fail(f"nobody answers at {address}")


async def hello(_):
    return pb.Hello()


def test_a_root_that_is_not_there_is_no_mistake_of_this_daemon_s():
    async def scene():
        root = Gone()
        lane = LaneStream(root, 0, hello, lambda _: None, lambda: None, JournalledSequence(), pytest.fail)
        await asyncio.wait_for(root.failed.wait(), 10)
        await lane.close()
        return lane.problem

    with structlog.testing.capture_logs() as logs:
        assert asyncio.run(scene()) == "nobody listens"
    assert [entry["log_level"] for entry in logs] == ["warning"]


def test_who_waits_for_a_lane_to_have_been_tried_waits_no_longer_than_for_its_failure_or_end():
    async def scene():
        failing, ended = (
            LaneStream(Gone(), 0, hello, lambda _: None, lambda: None, JournalledSequence(), pytest.fail)
            for _ in range(2)
        )
        ended.end()
        for lane in (failing, ended):
            await asyncio.wait_for(lane.wait_for_first_attempt(), 10)
        await failing.close()
        return failing.problem

    assert asyncio.run(scene()) == "nobody listens"

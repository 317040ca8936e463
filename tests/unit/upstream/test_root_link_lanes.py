"""What a node's daemon tells the root of its ranks."""

from __future__ import annotations

import asyncio

import pytest

from tracker_daemon.backends.root import LanePosition
from tracker_daemon.errors import UpstreamUnavailable
from tracker_daemon.upstream import root_link as link_module
from tracker_daemon.upstream.lane_stream import JournalledSequence
from tracker_daemon.upstream.root_link import RootLink, ThisNode
from tracker_protocol.v1 import tracker_pb2 as pb

NODE = ThisNode(b"n" * 16, "host", 1)


class FakeLane:
    """A lane that is connected, and keeps what it is to send."""

    def __init__(self, _root, acknowledged, _hello, _take, connected, _mark, _ahead):
        self.acknowledged = acknowledged
        self.connected = connected
        self.sent = []
        self.closed = False

    async def close(self):
        self.closed = True

    def send(self, message):
        self.sent.append(message)

    def present(self):
        """Of each presence that was told, the ranks."""
        told = [message.presence for message in self.sent if message.HasField("presence")]
        return [[rank.stream_id for rank in presence.ranks] for presence in told]


@pytest.fixture
def link(monkeypatch):
    monkeypatch.setattr(link_module, "LaneStream", FakeLane)
    connected = []
    link = RootLink(
        None,
        NODE,
        "run",
        lambda: None,
        lambda _: None,
        connected.append,
        lambda *_: JournalledSequence(),
        pytest.fail,
    )
    link.connected = connected
    return link


def rank(number):
    return pb.PresentRank(stream_id=bytes([number]) * 16)


def test_a_rank_that_connects_again_is_shown_to_have_been_away(link):
    lane = link.lane(LanePosition(0, 0))
    first, second = (rank(n).stream_id for n in (1, 2))
    link.add_rank(rank(1))
    link.add_rank(rank(2))
    link.add_rank(rank(1))
    assert lane.present() == [[first], [first, second], [second], [second, first]]


def test_a_link_that_is_closed_opens_no_lane_again_for_a_pump_that_tries_once_more(link):
    lane = link.lane(LanePosition(0, 0))
    asyncio.run(link.close())
    assert lane.closed
    with pytest.raises(UpstreamUnavailable, match="opens no more connections to the root"):
        link.lane(LanePosition(0, 0))


def test_who_delivers_is_told_when_a_lane_is_connected(link):
    for files in (False, True):
        link.lane(LanePosition(0, 0), files=files).connected()
    assert link.connected == [False, True]


def test_a_lane_knows_all_that_was_acknowledged_whoever_made_it(link):
    lane = link.lane(LanePosition(0, 0))
    assert link.lane(LanePosition(0, 7)) is lane
    assert lane.acknowledged == 7
    assert link.lane(LanePosition(0, 3)).acknowledged == 7

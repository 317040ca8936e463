"""A node's daemon at the root: whose presence it tells, and from which connection that is taken."""

from __future__ import annotations

import pytest

from tracker_daemon.ingest.nodes import NodeLink, NodeSession
from tracker_protocol.v1 import tracker_pb2 as pb

NODE = pb.Node(node_id=b"n" * 16, run_id="run", host="node", pid=1)
hello, stream_id = pytest.ingest_hello, pytest.ingest_stream_id


class Came(list):
    """The streams that are said to be there, as the front notes them."""

    def __call__(self, link, stream, _):
        self.append(stream)
        link.relayed[stream.stream_id] = stream


@pytest.fixture
def link(door):
    run = door.come(1, 0, run_id="run").stream.run
    return NodeLink(run, Came(), lambda _: None)


def connect(registry, link):
    """A connection of the node, which takes the place of the one before."""
    admission = registry.admit(pb.Hello(protocol_version=1, stream_id=stream_id(9), node=NODE))
    session = NodeSession(admission, None, None, lambda: 200, link, files_lane=False)
    registry.connect(admission.stream, session)
    link.attach(session)
    return session


def presence(*streams):
    ranks = [pb.PresentRank(stream_id=stream_id(number)) for number in streams]
    return pb.ClientMessage(presence=pb.Presence(ranks=ranks))


def test_a_rank_is_there_when_its_node_says_so_and_the_node_itself_is_none(registry, link):
    session = connect(registry, link)
    session.take(presence(1, 9, 77))
    assert [stream.rank for stream in link.came] == [0]


def test_what_an_older_connection_still_brings_says_nothing_of_who_is_there(registry, link):
    older = connect(registry, link)
    connect(registry, link)
    older.take(presence(1))
    assert link.came == []

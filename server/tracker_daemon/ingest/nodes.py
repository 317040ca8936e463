"""Nodes' daemons at the root: their streams, and the ranks that are connected to them.

A rank of a node has a stream here as any other has, so that who it is, whether its rank is disputed and
whether it is lost are decided as ever. Its connection is a :class:`RelayedSession`: what is sent to it goes
through the node's own stream, and it is connected as long as the node says so. The rank's data comes in
the node's batches.

What a node says of its ranks' presence holds once all the node had said before is durable: a rank that has
left is not lost while its last words are still on their way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tracker_daemon.aggregation.shared.batch import DecodedBatch
from tracker_daemon.errors import ProtocolError
from tracker_daemon.ingest.session import Session, SessionContext
from tracker_daemon.runs.run import Admission, Run, Stream
from tracker_protocol.v1 import tracker_pb2 as pb

_KEPT_MESSAGES_MAX = 1_000
"""For ranks of a node that is not connected yet; beyond it the oldest are dropped."""


class RelayedSession(Session):
    """A rank's connection, through its node's."""

    def __init__(
        self,
        admission: Admission,
        serving: SessionContext,
        link: NodeLink,
    ) -> None:
        super().__init__(admission, serving)
        self._link = link

    def take(self, message: pb.ClientMessage) -> None:
        """Take what the node relays of the rank."""
        if message.WhichOneof("message") in ("batch", "gap", "heartbeat", "hello"):
            raise ProtocolError("what a rank logs comes in its node's batches, and is not relayed")
        super().take(message)

    def send(self, message: pb.DaemonMessage) -> None:
        """Send something to the rank, through its node."""
        self._link.send(pb.ToRank(stream_id=self.stream.stream_id, message=message))

    @property
    def all_committed(self) -> bool:
        """Whether everything that the node has brought so far is durable."""
        return self._link.all_committed

    @property
    def node(self) -> Stream | None:
        """Its node's stream, while that is connected."""
        return self._link.session.stream if self._link.session is not None else None


class NodeSession(Session):
    """The connection of a node's daemon for one run; a lane for files has batches alone."""

    def __init__(
        self,
        admission: Admission,
        serving: SessionContext,
        link: NodeLink,
        *,
        files_lane: bool,
    ) -> None:
        super().__init__(admission, serving)
        self.link = link
        self.files_lane = files_lane
        self._told_learning = False

    def take(self, message: pb.ClientMessage) -> None:
        """Take one message after the Hello; raises as :meth:`Session.take`."""
        if self._superseded:
            return  # who is there, the connection that took its place says
        kind = message.WhichOneof("message")
        if kind == "from_rank":
            self.stream.note_contact()
            self.link.take(message.from_rank)
        elif kind == "presence":
            self.stream.note_contact()
            self.link.announce(message.presence)
            self.wake()
        elif kind == "heartbeat":
            self.stream.note_contact()
        else:
            super().take(message)

    def wake(self) -> None:
        """Something was committed, or the connection ends."""
        super().wake()
        if not self.files_lane:
            self.link.apply(self.committed)

    def poll(self) -> None:
        """Tell the node when it begins, or ceases, to matter what idle ranks say."""
        if not self.files_lane and self.stream.run.live.view.learning != self._told_learning:
            self.wake()

    def _acknowledgement(self) -> pb.Acknowledgement:
        acknowledgement = super()._acknowledgement()
        acknowledgement.learning = self._told_learning = self.stream.run.live.view.learning
        return acknowledgement

    def _ends(self, decoded: DecodedBatch) -> dict[bytes, int]:
        parts = decoded.forwarded.parts if decoded.forwarded is not None else ()
        known = self.stream.run.streams
        return {s: part.finish for s, part in parts if part.finish is not None and s in known}

    def _has_foreign(self, decoded: DecodedBatch) -> bool:
        own = decoded.rows or decoded.texts or decoded.config or decoded.items
        return bool(own) or decoded.finish is not None


@dataclass(slots=True, eq=False)
class NodeLink:
    """One node's daemon and one run. On the event loop.

    ``came`` and ``left`` are told of its ranks: of a stream, with the classes of its script; of a session.
    """

    run: Run
    came: Callable[[NodeLink, Stream, pb.PresentRank], None]
    left: Callable[[RelayedSession], None]
    session: NodeSession | None = None
    relayed: dict[bytes, RelayedSession] = field(default_factory=dict)
    """By stream: the ranks that are connected, as far as is known here."""
    ended_by_root: bool = False
    _announced: pb.Presence | None = None
    _kept: list[pb.ToRank] = field(default_factory=list)

    # ---- the node's own connection ----

    def attach(self, session: NodeSession) -> None:
        """The node is connected."""
        self.session = session
        self._announced = None
        self.ended_by_root = False
        kept, self._kept = self._kept, []
        for message in kept:
            self.send(message)

    def detach(self, session: NodeSession) -> None:
        """Its connection has ended: nobody can say any more whether its ranks are there."""
        if self.session is not session:
            return
        self.session = None
        for relayed in list(self.relayed.values()):
            self._leave(relayed)

    @property
    def all_committed(self) -> bool:
        """Whether everything that has come from the node is durable."""
        return self.session is None or self.session.all_committed

    def send(self, message: pb.ToRank) -> None:
        """Send to a rank; what cannot be sent yet is kept for a while."""
        if self.session is not None:
            self.session.send(pb.DaemonMessage(to_rank=message))
        else:
            self._kept.append(message)
            del self._kept[:-_KEPT_MESSAGES_MAX]

    def send_run_ended(self) -> None:
        """Tell the node, once, that the run has ended."""
        if self.session is not None and not self.run.running and not self.ended_by_root:
            self.ended_by_root = True
            view = self.run.live.view
            over = pb.RunOver(status=view.status, reason=view.reason)
            self.session.send(pb.DaemonMessage(run_over=over))
        elif self.run.running:
            self.ended_by_root = False

    # ---- its ranks ----

    def take(self, message: pb.FromRank) -> None:
        """Something from one of its ranks; of one that is not known to be there it is of no use."""
        relayed = self.relayed.get(message.stream_id)
        if relayed is not None:
            relayed.take(message.message)

    def announce(self, presence: pb.Presence) -> None:
        """The node says who is there, as of a certain batch."""
        self._announced = presence

    def apply(self, committed: int) -> None:
        """Everything up to ``committed`` is durable: what was announced may hold from now on."""
        presence = self._announced
        if presence is None or presence.through_sequence > committed:
            return
        self._announced = None
        here = {present.stream_id: present for present in presence.ranks}
        for relayed in [r for stream_id, r in self.relayed.items() if stream_id not in here]:
            self._leave(relayed)
        for stream_id, present in here.items():
            stream = self.run.streams.get(stream_id)
            if stream is not None and not stream.is_node and stream_id not in self.relayed:
                self.came(self, stream, present)

    def _leave(self, relayed: RelayedSession) -> None:
        del self.relayed[relayed.stream.stream_id]
        self.left(relayed)


class Nodes:
    """The links of all nodes' daemons and runs."""

    def __init__(
        self, came: Callable[[NodeLink, Stream, pb.PresentRank], None], left: Callable[[RelayedSession], None]
    ) -> None:
        self._came = came
        self._left = left
        self._links: dict[tuple[bytes, str], NodeLink] = {}

    def link(self, node_id: bytes, run: Run) -> NodeLink:
        """The link of a node's daemon and a run, made when it is first asked for."""
        key = node_id, run.run_id
        if key not in self._links or self._links[key].run is not run:
            self._links[key] = NodeLink(run, self._came, self._left)
        return self._links[key]

    def poll(self) -> None:
        """Tell nodes what they are to know of their runs, and forget those that nobody forwards any more."""
        for key, link in list(self._links.items()):
            link.send_run_ended()
            if link.session is not None:
                link.session.poll()
            if link.session is None and not link.run.running:
                del self._links[key]

    def connected(self) -> Iterator[NodeSession]:
        """The streams that are connected now."""
        return (link.session for link in self._links.values() if link.session is not None)

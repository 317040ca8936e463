"""Nodes' daemons at the root: their streams, and the ranks behind them.

A rank of a node has a stream here like every other rank. So the root decides about its identity, claims to
it and its loss in the same way. Its connection is a :class:`RelayedSession`. Messages to the rank are sent
through the node's own stream. The rank is connected as long as the node reports it as present. The rank's
data arrives in the node's batches.

A presence message takes effect once every earlier batch of the node is durable. So a rank that has
disconnected is not lost while its last batches are still on their way.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from tracker_daemon.aggregation.values.batch import DecodedBatch
from tracker_daemon.errors import ProtocolError
from tracker_daemon.ingest.session import Session, SessionContext
from tracker_daemon.runs.run import Admission, Run, Stream
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

_KEPT_MESSAGES_MAX = 1_000
"""Messages kept for the ranks of a node that is not connected yet; beyond it the oldest are dropped."""


class RelayedSession(Session):
    """A rank's connection through its node's daemon."""

    def __init__(
        self,
        admission: Admission,
        context: SessionContext,
        link: NodeLink,
    ) -> None:
        super().__init__(admission, context)
        self._link = link

    def take(self, message: pb.ClientMessage) -> None:
        """Handle a message of the rank that its node has relayed."""
        if message.WhichOneof("message") in ("batch", "gap", "heartbeat", "hello"):
            raise ProtocolError("a rank's values arrive in its node's batches, and are not relayed")
        super().take(message)

    def send(self, message: pb.DaemonMessage) -> None:
        """Send a message to the rank through its node."""
        self._link.send(pb.ToRank(stream_id=self.stream.stream_id, message=message))

    @property
    def all_committed(self) -> bool:
        """True if every batch that the node has sent is durable."""
        return self._link.all_committed

    @property
    def node(self) -> Stream | None:
        """The node's stream; None if the node is not connected."""
        return self._link.session.stream if self._link.session is not None else None


class NodeSession(Session):
    """The connection of a node's daemon for one run. A lane for files carries only batches."""

    def __init__(
        self,
        admission: Admission,
        context: SessionContext,
        link: NodeLink,
        *,
        files_lane: bool,
    ) -> None:
        super().__init__(admission, context)
        self.link = link
        self.files_lane = files_lane
        self._sent_learning = False

    def take(self, message: pb.ClientMessage) -> None:
        """Handle one message after the Hello; raises the errors of :meth:`Session.take`."""
        if self._superseded:
            return  # the new connection reports the present ranks
        kind = message.WhichOneof("message")
        if kind == "from_rank":
            self.stream.note_contact()
            self._take_from_rank(message.from_rank)
        elif kind == "presence":
            self.stream.note_contact()
            self.link.announce(message.presence)
            self.wake()
        elif kind == "heartbeat":
            self.stream.note_contact()
        else:
            super().take(message)

    def _take_from_rank(self, message: pb.FromRank) -> None:
        stream = self.stream.run.streams.get(message.stream_id)
        if message.message.HasField("warning") and stream is not None:
            # A rank may warn before its node has reported it as present.
            self._on_warning(stream, message.message.warning.text[: limits.WARNING_MAX_CHARACTERS])
        else:
            self.link.take(message)

    def wake(self) -> None:
        """Acknowledge what is durable by now, and apply presence messages that are due."""
        super().wake()
        if not self.files_lane:
            self.link.apply(self.committed)

    def poll(self) -> None:
        """Send the node an acknowledgement when the run begins or ceases to learn reporters."""
        if not self.files_lane and self.stream.run.live.view.learning != self._sent_learning:
            self.wake()

    def _acknowledgement(self) -> pb.Acknowledgement:
        acknowledgement = super()._acknowledgement()
        acknowledgement.learning = self._sent_learning = self.stream.run.live.view.learning
        return acknowledgement

    def _ends(self, decoded: DecodedBatch) -> dict[bytes, DecodedBatch]:
        parts = decoded.forwarded.parts if decoded.forwarded is not None else ()
        known = self.stream.run.streams
        return {s: part for s, part in parts if (part.ends or part.lost) and s in known}

    def _has_foreign(self, decoded: DecodedBatch) -> bool:
        own = decoded.rows or decoded.texts or decoded.config or decoded.items
        return bool(own) or decoded.ends or decoded.lost


@dataclass(slots=True, eq=False)
class NodeLink:
    """One node's daemon and one run. On the event loop.

    ``on_connected`` is called for each rank that the node reports as present for the first time, and
    ``on_disconnected`` for each session that has ended.
    """

    run: Run
    on_connected: Callable[[NodeLink, Stream, pb.PresentRank], None]
    on_disconnected: Callable[[RelayedSession], None]
    session: NodeSession | None = None
    relayed: dict[bytes, RelayedSession] = field(default_factory=dict)
    """The sessions of the ranks that the node has reported as present, by stream id."""
    end_sent: bool = False
    """True once the run's end has been sent to the node."""
    _announced: pb.Presence | None = None
    _kept: list[pb.ToRank] = field(default_factory=list)

    # ---- the node's own connection -----------------------------------------------------------------

    def attach(self, session: NodeSession) -> None:
        """Set the node's connection, and send the kept messages."""
        self.session = session
        self._announced = None
        self.end_sent = False
        kept, self._kept = self._kept, []
        for message in kept:
            self.send(message)

    def detach(self, session: NodeSession) -> None:
        """Remove the node's ended connection, and those of its ranks: their presence is unknown now."""
        if self.session is not session:
            return
        self.session = None
        for relayed in list(self.relayed.values()):
            self._disconnect(relayed)

    @property
    def all_committed(self) -> bool:
        """True if every batch that the node has sent is durable."""
        return self.session is None or self.session.all_committed

    def send(self, message: pb.ToRank) -> None:
        """Send to a rank; keep the message if the node is not connected."""
        if self.session is not None:
            self.session.send(pb.DaemonMessage(to_rank=message))
        else:
            self._kept.append(message)
            del self._kept[:-_KEPT_MESSAGES_MAX]

    def send_run_ended(self) -> None:
        """Tell the node, once, that the run has ended."""
        if self.session is not None and not self.run.running and not self.end_sent:
            self.end_sent = True
            view = self.run.live.view
            over = pb.RunOver(status=view.status, reason=view.reason)
            self.session.send(pb.DaemonMessage(run_over=over))
        elif self.run.running:
            self.end_sent = False

    # ---- the node's ranks -------------------------------------------------------------------------

    def take(self, message: pb.FromRank) -> None:
        """Handle a message of one of the node's ranks; drop it if the rank is not reported as present."""
        relayed = self.relayed.get(message.stream_id)
        if relayed is not None:
            relayed.take(message.message)

    def announce(self, presence: pb.Presence) -> None:
        """Keep a presence message of the node until it takes effect."""
        self._announced = presence

    def apply(self, committed: int) -> None:
        """Apply the kept presence message if every batch before it is durable, up to ``committed``."""
        presence = self._announced
        if presence is None or presence.through_sequence > committed:
            return
        self._announced = None
        here = {present.stream_id: present for present in presence.ranks}
        for relayed in [r for stream_id, r in self.relayed.items() if stream_id not in here]:
            self._disconnect(relayed)
        for stream_id, present in here.items():
            stream = self.run.streams.get(stream_id)
            if stream is not None and not stream.is_node and stream_id not in self.relayed:
                self.on_connected(self, stream, present)

    def _disconnect(self, relayed: RelayedSession) -> None:
        del self.relayed[relayed.stream.stream_id]
        self.on_disconnected(relayed)


class Nodes:
    """The links of all nodes' daemons and runs."""

    def __init__(
        self,
        on_connected: Callable[[NodeLink, Stream, pb.PresentRank], None],
        on_disconnected: Callable[[RelayedSession], None],
    ) -> None:
        self._on_connected = on_connected
        self._on_disconnected = on_disconnected
        self._links: dict[tuple[bytes, str], NodeLink] = {}

    def link(self, node_id: bytes, run: Run) -> NodeLink:
        """Return the link of a node's daemon and a run; make it if there is none."""
        key = node_id, run.run_id
        if key not in self._links or self._links[key].run is not run:
            self._links[key] = NodeLink(run, self._on_connected, self._on_disconnected)
        return self._links[key]

    def send_run_ended(self, run_id: str) -> None:
        """Send the end of a run, if it has ended, to the nodes that do not know it.

        A node may end as soon as its ranks have. So the end is sent with their last acknowledgement.
        """
        for (_, linked_run_id), link in self._links.items():
            if linked_run_id == run_id:
                link.send_run_ended()

    def poll(self) -> None:
        """Send nodes the news of their runs, and remove the links that are no longer needed."""
        for key, link in list(self._links.items()):
            link.send_run_ended()
            if link.session is not None:
                link.session.poll()
            if link.session is None and not link.run.running:
                del self._links[key]

    def connected(self) -> Iterator[NodeSession]:
        """Return the sessions of the connected nodes."""
        return (link.session for link in self._links.values() if link.session is not None)

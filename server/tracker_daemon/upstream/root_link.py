"""A link: everything that one run sends to the root, and receives from it, until the run has ended.

A link has one lane for batches, and a second one for items with contents once there is such an item. The
first lane also carries the messages between the root and ranks, and the list of the ranks connected here.
The root counts a rank as disconnected only after this daemon has reported it. That report is sent once
everything from the rank is acknowledged.
"""

from __future__ import annotations

import hashlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial

from tracker_daemon.backends.root import LanePosition
from tracker_daemon.errors import UpstreamUnavailable
from tracker_daemon.upstream.lane_stream import JournalledSequence, LaneStream
from tracker_daemon.upstream.root import Root
from tracker_protocol import PROTOCOL_VERSION, limits
from tracker_protocol.v1 import tracker_pb2 as pb

_ID_BYTES = 16


@dataclass(frozen=True, slots=True)
class ThisNode:
    """This daemon's identity at the root; ``id`` is derived from its journal."""

    id: bytes
    host: str
    pid: int

    def stream_id(self, run_id: str, epoch: int, *, files: bool) -> bytes:
        """Return the stream id of a lane. Each epoch has another one, since its batches may differ."""
        parts = (self.id, run_id.encode(), str(epoch).encode(), b"files" if files else b"")
        return hashlib.sha256(b"\0".join(parts)).digest()[:_ID_BYTES]


class RootLink:
    """The link of one run. On the event loop.

    Args:
        root: the root.
        node: this daemon.
        run_id: the run.
        names: returns the run's dictionary of metric names.
        take: receives each message of the root except acknowledgements.
        on_connected: called when a lane is connected; with True if it is the lane for files.
        journalled: returns the journalled sequence of a lane's stream, by epoch and kind of lane.
        report_lost_journal: called with the root's sequence if the root has more than the journal.
    """

    def __init__(
        self,
        root: Root,
        node: ThisNode,
        run_id: str,
        names: Callable[[], Awaitable[Sequence[str]]],
        take: Callable[[pb.DaemonMessage], None],
        on_connected: Callable[[bool], None],
        journalled: Callable[[int, bool], JournalledSequence],
        report_lost_journal: Callable[[int], None],
    ) -> None:
        self._root = root
        self._node = node
        self._run_id = run_id
        self._names = names
        self._take = take
        self._on_connected = on_connected
        self._journalled = journalled
        self._report_lost_journal = report_lost_journal
        self._lanes: dict[bool, tuple[int, LaneStream]] = {}
        self._connected_ranks: dict[bytes, pb.PresentRank] = {}
        self._closed = False
        self._kept_warnings: deque[pb.FromRank] = deque(maxlen=limits.WARNING_CAUSES_MAX)
        """Warnings of ranks that came while the root was not connected."""
        self._unanswered: dict[tuple[bytes, str], pb.FromRank] = {}
        """Requests of ranks without a final answer; sent again whenever the root is connected."""

    # ---- lanes -----------------------------------------------------------------------------------

    def lane(self, position: LanePosition, *, files: bool = False) -> LaneStream:
        """Return the lane of an epoch; a new one continues after ``position``.

        Raises:
            UpstreamUnavailable: the link is closed.
        """
        if self._closed:
            raise UpstreamUnavailable("this daemon is ending and opens no more connections to the root")
        known = self._lanes.get(files)
        if known is not None:
            epoch, lane = known
            if epoch == position.epoch:
                # The lane may be older than this position; its next Hello then carries the position.
                lane.acknowledged = max(lane.acknowledged, position.sequence)
                return lane
            lane.end()
        lane = LaneStream(
            self._root, position.sequence, self._hello_of(position.epoch, files=files), self._take,
            partial(self._introduce, files=files), self._journalled(position.epoch, files),
            self._report_lost_journal,
        )  # fmt: skip
        self._lanes[files] = position.epoch, lane
        return lane

    def begin_epoch(self, epoch: int) -> None:
        """End the lanes of other epochs, and open the lane for batches of this one.

        The lane for files opens with the first item that has contents.
        """
        for files, (lanes_epoch, lane) in list(self._lanes.items()):
            if lanes_epoch != epoch:
                lane.end()
                del self._lanes[files]
        self.lane(LanePosition(epoch, 0))

    def _hello_of(self, epoch: int, *, files: bool) -> Callable[[int], Awaitable[pb.Hello]]:
        async def hello(acknowledged: int) -> pb.Hello:
            node = self._node
            return pb.Hello(
                protocol_version=PROTOCOL_VERSION,
                stream_id=node.stream_id(self._run_id, epoch, files=files),
                last_acknowledged=acknowledged,
                names=() if files else await self._names(),
                node=pb.Node(
                    node_id=node.id, run_id=self._run_id, host=node.host, pid=node.pid, files_lane=files
                ),
            )

        return hello

    @property
    def _batches(self) -> LaneStream | None:
        """The lane for batches, if there is one."""
        known = self._lanes.get(False)
        return known[1] if known is not None else None

    @property
    def _is_connected(self) -> bool:
        return self._batches is not None and self._batches.connection is not None

    def flush_interval_s(self) -> float | None:
        """Return the seconds between batches that the root asks for; None if there is no lane yet."""
        return self._batches.flush_interval_s if self._batches is not None else None

    @property
    def root_learns(self) -> bool:
        """True if the root needs to know of flushes by idle ranks."""
        return self._batches is not None and self._batches.root_learns

    async def close(self) -> None:
        """End all lanes; none can be opened afterwards."""
        self._closed = True
        lanes, self._lanes = self._lanes, {}
        for _, lane in lanes.values():
            await lane.close()

    # ---- ranks -----------------------------------------------------------------------------------

    def add_rank(self, present: pb.PresentRank) -> None:
        """Report a rank that has connected here.

        If the rank was connected before, messages of the root on its former connection may be lost. So the
        root first receives a presence without the rank, and starts with the rank anew.
        """
        if self._connected_ranks.pop(present.stream_id, None) is not None:
            self._send_presence()
        self._connected_ranks[present.stream_id] = present
        self._send_presence()

    def remove_rank(self, stream_id: bytes) -> None:
        """Report a rank that has disconnected, once everything from it is acknowledged."""
        for key in [key for key in self._unanswered if key[0] == stream_id]:
            del self._unanswered[key]
        if self._connected_ranks.pop(stream_id, None) is not None:
            self._send_presence()

    def send_from_rank(self, stream_id: bytes, message: pb.ClientMessage) -> None:
        """Send a message of a rank to the root."""
        from_rank = pb.FromRank(stream_id=stream_id, message=message)
        kind = message.WhichOneof("message")
        if kind == "await_delivery":
            self._unanswered[stream_id, kind] = from_rank
        elif kind == "handles_request":
            self._unanswered[stream_id, f"{kind} {message.handles_request.backend}"] = from_rank
        if kind == "warning" and not self._is_connected:
            self._kept_warnings.append(from_rank)
        else:
            self._send(pb.ClientMessage(from_rank=from_rank))

    def note_delivered(self, stream_id: bytes) -> None:
        """Note that the root has answered a rank's wait for delivery."""
        self._unanswered.pop((stream_id, "await_delivery"), None)

    def send_heartbeat(self) -> None:
        """Show the root that this daemon lives."""
        self._send(pb.ClientMessage(heartbeat=pb.Heartbeat()))

    def _introduce(self, *, files: bool) -> None:
        self._on_connected(files)
        if files:
            return
        self._send_presence()
        for from_rank in (*self._kept_warnings, *self._unanswered.values()):
            self._send(pb.ClientMessage(from_rank=from_rank))
        self._kept_warnings.clear()

    def _send_presence(self) -> None:
        if self._batches is not None:
            through = self._batches.acknowledged
            presence = pb.Presence(through_sequence=through, ranks=self._connected_ranks.values())
            self._send(pb.ClientMessage(presence=presence))

    def _send(self, message: pb.ClientMessage) -> None:
        if self._batches is not None:
            self._batches.send(message)

"""What ranks said that is forwarded as it is, in its order, until it is told.

That is texts, statistics of a rank's own, configurations, items, values that its client dropped, and its end.
Each is kept as a fragment of a body, with keys of the rank's own stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tracker_daemon.aggregation.node.batches import BatchWriter
from tracker_daemon.aggregation.shared.batch import Rows, TextRows
from tracker_daemon.aggregation.shared.item import Item
from tracker_daemon.aggregation.shared.stream import StreamFold
from tracker_protocol.v1 import tracker_pb2 as pb


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """Something that the rank of a stream said; ``points`` are the values in it."""

    stream: bytes
    body: pb.BatchBody
    points: int = 0


class RankParts:
    """The fragments that wait to be told, and after them the ends of ranks."""

    def __init__(self) -> None:
        self.fragments: list[Fragment] = []
        self.ends: list[tuple[bytes, int]] = []
        self.points = 0
        self.bytes = 0

    def __bool__(self) -> bool:
        return bool(self.fragments or self.ends)

    # ---- what comes ------------------------------------------------------------------------------

    def add(self, fragment: Fragment) -> None:
        """Have it told after what came before."""
        self.fragments.append(fragment)
        self.points += fragment.points
        self.bytes += fragment.body.ByteSize()

    def own_rows(self, stream: bytes, rows: Rows) -> None:
        """Statistics that mean something for the rank alone."""
        block = pb.Block(
            keys=rows.keys,
            steps=rows.steps.astype("<i8").tobytes(),
            times=rows.times_ns.astype("<i8").tobytes(),
            values=rows.values.astype("<f8").tobytes(),
            automatic_steps=rows.automatic_steps,
            own=True,
        )
        self.add(Fragment(stream, pb.BatchBody(blocks=[block]), rows.values.size))

    def texts(self, stream: bytes, rows: TextRows) -> None:
        """Values that are not numbers."""
        block = pb.TextBlock(
            keys=rows.keys,
            steps=rows.steps.astype("<i8").tobytes(),
            times=rows.times_ns.astype("<i8").tobytes(),
            values=[text for row in rows.values for text in row],
        )
        self.add(Fragment(stream, pb.BatchBody(texts=[block]), len(rows.keys) * len(rows.steps)))

    def config(self, stream: bytes, document: str) -> None:
        """A part of the run's configuration."""
        self.add(Fragment(stream, pb.BatchBody(config=[document])))

    def item(self, stream: bytes, item: Item) -> None:
        """What is no value of a metric."""
        contents = [
            pb.Content(sha256=bytes.fromhex(content.sha256), size_bytes=content.size_bytes, path=content.path)
            for content in item.contents
        ]
        message = pb.Item(
            kind=item.kind,
            key=item.key,
            step=item.step,
            automatic_step=item.automatic_step,
            time_ns=item.time_ns,
            document=item.document,
            contents=contents,
        )
        self.add(Fragment(stream, pb.BatchBody(items=[message])))

    def dropped(self, stream: bytes, points: int) -> None:
        """How many values the rank's client has dropped so far."""
        self.add(Fragment(stream, pb.BatchBody(dropped_points=points)))

    def end(self, stream: bytes, exit_code: int) -> None:
        """The rank has ended."""
        self.ends.append((stream, exit_code))

    # ---- what is told ----------------------------------------------------------------------------

    def write(self, writer: BatchWriter, streams: Mapping[bytes, StreamFold]) -> None:
        """Tell all but the ends."""
        for fragment in self.fragments:
            items = fragment.body.items
            if items and items[0].contents:
                writer.file(fragment.stream, items[0])
            else:
                writer.part(fragment.stream, fragment.body, streams[fragment.stream].names)
        self.fragments.clear()
        self.points = self.bytes = 0

    def write_ends(self, writer: BatchWriter) -> None:
        """Tell the ends, in batches that have nothing else: all that these ranks logged comes before them."""
        if self.ends:
            writer.close()
        for stream, exit_code in self.ends:
            writer.part(stream, pb.BatchBody(finish=exit_code), ())
        self.ends.clear()

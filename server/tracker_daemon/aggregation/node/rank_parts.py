"""Data that the root receives unchanged from a rank: recorded ranks' rows, configuration, items, the end.

They wait here as fragments, in the order in which they arrived, with keys of the rank's own stream. An end
waits apart, since everything that the rank logged must reach the root before it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from tracker_daemon.aggregation.node.dictionary import NodeDictionary
from tracker_daemon.aggregation.shared.stream import StreamFold
from tracker_daemon.aggregation.values.batch import DecodedBatch, RankPart, Rows, TextRows
from tracker_daemon.aggregation.values.item import Item
from tracker_daemon.rules.metric_definitions import MetricDefinition

_OBJECT_BYTES = 128
"""Counted for a fragment beside its values, roughly."""


@dataclass(frozen=True, slots=True, eq=False)
class Fragment:
    """A piece of such data, from the rank of ``stream``."""

    stream: bytes
    batch: DecodedBatch


class RankParts:
    """The fragments that are not forwarded yet, and the ends of ranks."""

    def __init__(self) -> None:
        self.fragments: list[Fragment] = []
        self.ends: list[RankPart] = []
        self.with_rows: set[bytes] = set()
        """Streams with rows here or at the root, which a flush makes whole."""
        self.flushed: set[bytes] = set()
        """Those of these streams that have flushed after their newest row."""
        self.points = 0
        self.bytes = 0
        """The memory that the fragments hold, roughly."""

    def __bool__(self) -> bool:
        return bool(self.fragments or self.ends)

    # ---- in --------------------------------------------------------------------------------------

    def add(self, fragment: Fragment) -> None:
        """Append a fragment."""
        self.fragments.append(fragment)
        self.points += fragment.batch.points
        self.bytes += _memory_bytes(fragment.batch)

    def add_rows(self, stream: bytes, rows: Rows) -> None:
        """Append rows of numbers."""
        self._note_rows(stream)
        self.add(Fragment(stream, DecodedBatch(rows=(rows,))))

    def add_texts(self, stream: bytes, rows: TextRows) -> None:
        """Append values that are not numbers."""
        self._note_rows(stream)
        self.add(Fragment(stream, DecodedBatch(texts=(rows,))))

    def _note_rows(self, stream: bytes) -> None:
        self.with_rows.add(stream)
        self.flushed.discard(stream)

    def note_flush(self, stream: bytes) -> None:
        """Note that all rows of a stream are here: the root need not wait for more of the newest."""
        if stream in self.with_rows:
            self.flushed.add(stream)

    def add_config(self, stream: bytes, document: str) -> None:
        """Append a part of the run's configuration."""
        self.add(Fragment(stream, DecodedBatch(config=(document,))))

    def add_definitions(self, stream: bytes, definitions: tuple[MetricDefinition, ...]) -> None:
        """Append what the script says about metrics."""
        self.add(Fragment(stream, DecodedBatch(definitions=definitions)))

    def add_item(self, stream: bytes, item: Item) -> None:
        """Append an item."""
        self.add(Fragment(stream, DecodedBatch(items=(item,))))

    def add_dropped(self, stream: bytes, points: int) -> None:
        """Append the number of values that the rank's client has dropped so far."""
        self.add(Fragment(stream, DecodedBatch(dropped_points=points)))

    def add_end(self, stream: bytes, end: DecodedBatch) -> None:
        """Append the end of the rank."""
        self.ends.append((stream, end))

    # ---- out -------------------------------------------------------------------------------------

    def take(self, names: NodeDictionary, streams: Mapping[bytes, StreamFold]) -> tuple[RankPart, ...]:
        """Remove and return the fragments, with keys of the node's dictionary."""
        taken = tuple(_part(fragment, names, streams[fragment.stream].names) for fragment in self.fragments)
        flushes = tuple((stream, DecodedBatch(flushed=True)) for stream in sorted(self.flushed))
        self.fragments.clear()
        self.flushed.clear()
        self.points = self.bytes = 0
        return taken + flushes

    def take_ends(self) -> tuple[RankPart, ...]:
        """Remove and return the ends."""
        taken = tuple(self.ends)
        self.ends.clear()
        return taken


def _part(fragment: Fragment, names: NodeDictionary, its_names: list[str]) -> RankPart:
    return fragment.stream, fragment.batch.with_keys(lambda keys: names.keys(its_names[key] for key in keys))


def _memory_bytes(batch: DecodedBatch) -> int:
    arrays = sum(rows.steps.nbytes + rows.times_ns.nbytes for rows in batch.blocks)
    arrays += sum(rows.values.nbytes for rows in batch.rows)
    texts = sum(len(text.encode()) for rows in batch.texts for row in rows.values for text in row)
    texts += sum(len(document.encode()) for document in batch.config)
    texts += sum(len(item.document.encode()) + _OBJECT_BYTES * len(item.contents) for item in batch.items)
    return _OBJECT_BYTES + arrays + texts

"""The bodies of batches that a node's daemon sends to its root, each below its size where that can be.

A name goes out with, or before, the first of what uses it, and once: the node's stream has a dictionary of
its own, in which keys are places.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from tracker_daemon.aggregation.node.cells import Cells
from tracker_daemon.aggregation.numbers.summary import Integers
from tracker_daemon.aggregation.shared.contribution import (
    Contribution,
    Progress,
    StepKeys,
    encode_contribution,
    encode_progress,
    encode_step_keys,
)
from tracker_daemon.aggregation.shared.fold import ForwardedBatch
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

_FIELD_BYTES = 8
"""What a field of a message takes beside its content, at most: its tag and length."""
_KEY_BYTES = 3
_STEP_BYTES = 8
_ROW_BYTES = _STEP_BYTES + 1 + 8
_VALUE_BYTES = 8
_SUMMARY_BYTES = 4 * 8 + 5 * 4
_PROGRESS_BYTES = 4 + 8 + 1
_CONTRIBUTION_BYTES = 20 * _FIELD_BYTES


class NodeDictionary:
    """The metrics that the node has named, by their keys, and those that it will name.

    All of them have to fit a Hello, which brings the whole dictionary on each new connection.
    """

    def __init__(self, names: Iterable[str] = (), awaited: Iterable[str] = ()) -> None:
        self.names = list(names)
        self.awaited = set(awaited)
        self._keys = {name: key for key, name in enumerate(self.names)}
        self._bytes = sum(map(_name_bytes, (*self.names, *self.awaited)))

    def admit(self, name: str) -> bool:
        """Whether there is a place for this metric; from then on it is kept for it."""
        if name in self._keys or name in self.awaited:
            return True
        size = _name_bytes(name)
        if self._bytes + size > limits.HELLO_NAMES_MAX_BYTES:
            return False
        if len(self._keys) + len(self.awaited) >= limits.METRICS_PER_RUN_MAX:
            return False
        self._bytes += size
        self.awaited.add(name)
        return True

    def key(self, name: str) -> int | None:
        """The key of a metric that has been named."""
        return self._keys.get(name)

    def append(self, name: str) -> int:
        """Name a metric; its key."""
        self.awaited.discard(name)
        key = self._keys[name] = len(self.names)
        self.names.append(name)
        return key


class BatchWriter:
    """Writes what is to be told, in order, into as many bodies as it takes."""

    def __init__(self, dictionary: NodeDictionary) -> None:
        self._dictionary = dictionary
        self._done: list[ForwardedBatch] = []
        self._begin()

    def _begin(self) -> None:
        self._body = pb.BatchBody()
        self._parts: dict[bytes, pb.RankPart] = {}
        self._size = 0

    def close(self) -> None:
        """Let what follows be in another body."""
        if self._size:
            self._done.append(ForwardedBatch(self._body.SerializeToString()))
            self._begin()

    def finish(self) -> tuple[ForwardedBatch, ...]:
        """All that was written."""
        self.close()
        return tuple(self._done)

    def _make_room(self, size: int) -> None:
        if self._size + size > limits.BATCH_TARGET_BYTES:
            self.close()
        self._size += size

    def _keys(self, names: Iterable[str]) -> list[int]:
        keys = []
        for name in names:
            key = self._dictionary.key(name)
            if key is None:
                key = self._dictionary.append(name)
                self._make_room(_name_bytes(name))
                self._body.names.append(name)
            keys.append(key)
        return keys

    # ---- what ranks said themselves --------------------------------------------------------------

    def part(self, stream: bytes, fragment: pb.BatchBody, names: Sequence[str]) -> None:
        """Tell what the rank of ``stream`` said; the fragment's keys index ``names``."""
        keyed = pb.BatchBody()
        keyed.CopyFrom(fragment)
        for keys in (*(block.keys for block in keyed.blocks), *(block.keys for block in keyed.texts)):
            keys[:] = self._keys(names[key] for key in keys)
        self._make_room(keyed.ByteSize() + len(stream) + 3 * _FIELD_BYTES)
        part = self._parts.get(stream)
        if part is None:
            part = self._parts[stream] = self._body.parts.add(stream_id=stream)
        part.body.MergeFrom(keyed)

    def file(self, stream: bytes, item: pb.Item) -> None:
        """Tell of an item with contents, in a batch of its own: it travels apart, once they have."""
        part = pb.RankPart(stream_id=stream, body=pb.BatchBody(items=[item]))
        contents = frozenset(content.sha256.hex() for content in item.contents)
        self._done.append(ForwardedBatch(pb.BatchBody(parts=[part]).SerializeToString(), contents))

    # ---- what was gathered -----------------------------------------------------------------------

    def cells(self, attempt: int, cells: Cells) -> None:
        """Tell of cells of an attempt, in several contributions where they are large."""
        for part in _below_size(cells):
            keys = tuple(self._keys(part.names))
            message = encode_contribution(
                Contribution(
                    attempt, part.ranks, keys, part.steps, part.occurrences, part.times_ns, part.values,
                    part.summary,
                )
            )  # fmt: skip
            self._make_room(message.ByteSize() + _FIELD_BYTES)
            self._body.contributions.append(message)

    def step_keys(self, attempt: int, rank: int, names: Sequence[str], steps: Integers) -> None:
        """Tell which metrics a rank logged at steps that it counted itself."""
        keys = tuple(self._keys(names))
        room = limits.BATCH_TARGET_BYTES - _KEY_BYTES * len(keys) - 4 * _FIELD_BYTES
        at_once = max(1, room // _STEP_BYTES)
        for first in range(0, len(steps), at_once):
            message = encode_step_keys(StepKeys(attempt, rank, keys, steps[first : first + at_once]))
            self._make_room(message.ByteSize() + _FIELD_BYTES)
            self._body.automatic_keys.append(message)

    # ---- how it stands ---------------------------------------------------------------------------

    def progress(self, progress: Progress) -> None:
        """Tell how far ranks have come."""
        at_once = (limits.BATCH_TARGET_BYTES - 4 * _FIELD_BYTES) // _PROGRESS_BYTES
        for first in range(0, len(progress.ranks), at_once):
            some = slice(first, first + at_once)
            message = encode_progress(
                Progress(
                    progress.attempt, progress.ranks[some], progress.last_steps[some], progress.flushed[some]
                )
            )
            self._make_room(message.ByteSize() + _FIELD_BYTES)
            self._body.progress.append(message)

    def notice(self, text: str) -> None:
        """Tell people something."""
        text = text[: limits.TEXT_VALUE_MAX_CHARACTERS]
        self._make_room(len(text.encode()) + _FIELD_BYTES)
        self._body.notices.append(text)

    def dropped_points(self, points: int) -> None:
        """Tell how many values were lost, so far, of which no rank's stream tells."""
        self._make_room(2 * _FIELD_BYTES)
        self._body.dropped_points = points


def _name_bytes(name: str) -> int:
    """What a name takes in a message."""
    return len(name.encode()) + _FIELD_BYTES


def _below_size(cells: Cells) -> Iterator[Cells]:
    """Divide ``cells``, by rows and then by columns, into what fits a body each."""
    per_cell = _VALUE_BYTES if cells.summary is None else _SUMMARY_BYTES
    bitmap = (int(cells.ranks[-1]) - int(cells.ranks[0])) // 8 + 1
    room = limits.BATCH_TARGET_BYTES - _CONTRIBUTION_BYTES - bitmap
    width = max(1, min(len(cells.names), (room - _ROW_BYTES) // (_KEY_BYTES + per_cell)))
    height = max(1, (room - _KEY_BYTES * width) // (_ROW_BYTES + per_cell * width))
    for row in range(0, len(cells.steps), height):
        for column in range(0, len(cells.names), width):
            yield cells.part(slice(row, row + height), slice(column, column + width))

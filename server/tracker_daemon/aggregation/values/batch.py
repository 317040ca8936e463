"""Batches as values: what one batch of a rank or of a node's daemon holds.

Arrays are numpy views on the bytes that arrived: no value is touched one by one. :mod:`tracker_daemon.wire`
decodes these from messages, and encodes them.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from tracker_daemon.aggregation.values.contribution import Contribution, Progress, StepKeys
from tracker_daemon.aggregation.values.item import Item
from tracker_daemon.rules.metric_definitions import MetricDefinition

Keys = tuple[int, ...]
"""Indices into a stream's dictionary of metric names."""
Kinds = NDArray[np.uint8]
"""The :class:`Kind` of each of some numbers."""


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """n rows that share k metrics: ``steps``, ``times_ns`` and ``row_numbers`` are (n,), ``values`` (n, k).

    ``keys`` index the stream's dictionary of names. Row numbers are those within the stream, and rise.
    ``own``: nothing is to be computed of them. ``kinds`` are (n, k), each a :class:`Kind`; None: all floats.
    """

    keys: Keys
    steps: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    row_numbers: NDArray[np.int64]
    values: NDArray[np.float64]
    automatic_steps: bool
    own: bool = False
    kinds: Kinds | None = None

    @property
    def points(self) -> int:
        """The number of values."""
        return self.values.size

    def with_columns(self, columns: list[int]) -> Rows:
        """Return the rows with some of their columns."""
        return replace(
            self,
            keys=tuple(self.keys[column] for column in columns),
            values=self.values[:, columns],
            kinds=None if self.kinds is None else self.kinds[:, columns],
        )


@dataclass(frozen=True, slots=True, eq=False)
class TextRows:
    """n rows of k texts each; ``values[i]`` are the texts of row i."""

    keys: Keys
    steps: NDArray[np.int64]
    times_ns: NDArray[np.int64]
    row_numbers: NDArray[np.int64]
    values: tuple[tuple[str, ...], ...]
    automatic_steps: bool = False

    @property
    def points(self) -> int:
        """The number of texts."""
        return len(self.keys) * len(self.steps)

    def with_columns(self, columns: list[int]) -> TextRows:
        """Return the rows with some of their columns."""
        return replace(
            self,
            keys=tuple(self.keys[column] for column in columns),
            values=tuple(tuple(row[column] for column in columns) for row in self.values),
        )


@dataclass(frozen=True, slots=True)
class Exiting:
    """The end of a script that did not call ``finish()``. Its exit status follows, or is this batch's finish.

    ``status_fd`` is the process's descriptor of the file with the status, which begins with ``nonce``; 0
    without such a file.
    """

    status_fd: int = 0
    nonce: bytes = b""


@dataclass(frozen=True, slots=True, eq=False)
class DecodedBatch:
    """The content of one batch, checked as a whole before anything of it is used."""

    names: tuple[str, ...] = ()
    rows: tuple[Rows, ...] = ()
    texts: tuple[TextRows, ...] = ()
    config: tuple[str, ...] = ()
    dropped_points: int = 0
    flushed: bool = False
    finish: int | None = None
    items: tuple[Item, ...] = ()
    forwarded: NodeReport | None = None
    """Values of a node's ranks, in the batch of a node's daemon."""
    exiting: Exiting | None = None
    lost: bool = False
    """In a node's part of a rank: the rank's process has ended without a last batch."""
    definitions: tuple[MetricDefinition, ...] = ()
    """What the script says about metrics; it holds from this batch on."""

    @property
    def blocks(self) -> tuple[Rows | TextRows, ...]:
        """All rows: first those of numbers, then those of texts."""
        return (*self.rows, *self.texts)

    @property
    def own_points(self) -> int:
        """The number of values, numbers and texts, that the sender logged itself."""
        return sum(block.points for block in self.blocks)

    @property
    def points(self) -> int:
        """The number of values, those of a node's ranks among them."""
        return self.own_points + (0 if self.forwarded is None else self.forwarded.points)

    @property
    def ends(self) -> bool:
        """True if the rank sends nothing after this batch."""
        return self.finish is not None or self.exiting is not None

    def with_keys(self, translate: Callable[[Keys], Keys]) -> DecodedBatch:
        """Return this batch with the keys of another dictionary."""
        return replace(
            self,
            rows=tuple(replace(rows, keys=translate(rows.keys)) for rows in self.rows),
            texts=tuple(replace(texts, keys=translate(texts.keys)) for texts in self.texts),
        )


RankPart = tuple[bytes, DecodedBatch]
"""A rank's stream, and what the rank sent."""


@dataclass(frozen=True, slots=True, eq=False)
class NodeReport:
    """Values that a node's daemon sends of its ranks; keys index the node's dictionary."""

    parts: tuple[RankPart, ...]
    contributions: tuple[Contribution, ...]
    progress: tuple[Progress, ...]
    automatic_keys: tuple[StepKeys, ...]
    notices: tuple[str, ...]

    @property
    def points(self) -> int:
        """The number of ranks' values in it."""
        return sum(part.points for _, part in self.parts) + sum(c.points for c in self.contributions)


@dataclass(frozen=True, slots=True, eq=False)
class ForwardedValues:
    """Everything that a node's daemon sends to its root at one tick.

    The root must receive the parts first, then contributions, automatic keys, notices and progress, and
    ``ends`` last: an end follows everything that its rank logged. ``names`` are new in the node's dictionary,
    the first with the key ``first_key``, in the order in which the values use them.
    """

    first_key: int
    names: tuple[str, ...]
    report: NodeReport
    dropped_points: int
    """Values of no known rank that were lost, in all so far; 0 if that has not changed."""
    ends: tuple[RankPart, ...]

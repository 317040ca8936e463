"""A backend that keeps what arrives in the process, for tests of what lies before it."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from tracker_daemon.aggregation.shared.histograms import HistogramRow
from tracker_daemon.aggregation.shared.item import Item
from tracker_daemon.aggregation.shared.record import RecordBlock
from tracker_daemon.backends.base import Backend, Commit, RunDescription
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry


class _State(msgspec.Struct, frozen=True):
    blocks: int
    configs: int
    ended: bool
    items: int = 0


@dataclass(eq=False)
class MemoryRun:
    """What arrived for one run. Hold ``changed`` to read several fields at one moment."""

    description: RunDescription
    blocks: list[RecordBlock] = field(default_factory=list)
    configs: list[dict[str, Any]] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    status: str | None = None
    reason: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def config(self) -> dict[str, Any]:
        """The configurations merged, later keys winning."""
        return {key: value for config in self.configs for key, value in config.items()}

    def rows(self) -> list[dict[str, float | str]]:
        """The records as dicts with ``step`` and the cells that each one has, in order of arrival."""
        return [row for block in self.blocks for row in _rows(block)]

    def wait_for(self, condition: Callable[[MemoryRun], bool], timeout_s: float) -> bool:
        """Wait until ``condition`` holds for this run; False when ``timeout_s`` passed before."""
        with self.changed:
            return self.changed.wait_for(lambda: condition(self), timeout_s)


class MemoryBackend(Backend):
    """Keeps each run's entries under its run id, in :attr:`runs`, beyond its own closing."""

    name = "memory"
    runs: ClassVar[dict[str, MemoryRun]] = {}

    def __init__(self) -> None:
        self._run: MemoryRun | None = None

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Take the run up where ``state`` left it: what arrived after it is forgotten."""
        kept = msgspec.msgpack.decode(state, type=_State) if state else _State(0, 0, False)
        mine = self.runs.setdefault(run.run_id, MemoryRun(run))
        with mine.changed:
            del mine.blocks[kept.blocks :], mine.configs[kept.configs :], mine.items[kept.items :]
            if not kept.ended:
                mine.status, mine.reason = None, ""
            mine.changed.notify_all()
        self._run = mine

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:  # noqa: ARG002  # the interface's
        """Keep ``entries``; ``commit`` is not needed."""
        run = self._run
        if run is None:
            raise RuntimeError("deliver() on a memory backend that is not open")
        with run.changed:
            for entry in entries:
                _keep(run, entry)
            run.changed.notify_all()
            state = _State(len(run.blocks), len(run.configs), run.status is not None, len(run.items))
        return msgspec.msgpack.encode(state)

    def close(self) -> None:
        """Let go of the run; what arrived stays in :attr:`runs`."""
        self._run = None

    def location(self) -> str | None:
        """A name that says where to look: ``memory:<run id>``."""
        return f"memory:{self._run.description.run_id}" if self._run else None


def _keep(run: MemoryRun, entry: OutboxEntry) -> None:
    if entry.kind is EntryKind.RECORDS:
        run.blocks.append(RecordBlock.from_bytes(entry.payload))
        return
    if entry.kind in {EntryKind.ITEM, EntryKind.FILES}:
        run.items.append(Item.from_bytes(entry.payload))
        return
    if entry.kind is EntryKind.HISTOGRAMS:
        run.items.extend(HistogramRow.from_bytes(entry.payload).items())
        return
    document = json.loads(entry.payload)
    if entry.kind is EntryKind.CONFIG:
        run.configs.append(document)
    elif entry.kind is EntryKind.END:
        run.status, run.reason = document["status"], document.get("reason", "")


def _rows(block: RecordBlock) -> list[dict[str, float | str]]:
    rows: list[dict[str, float | str]] = []
    values = block.values.tolist()
    for at, step in enumerate(block.steps.tolist()):
        there = block.valid[at].tolist() if block.valid is not None else [True] * len(block.columns)
        cells = zip(block.columns, values[at], there, strict=True)
        rows.append({"step": step, **{name: value for name, value, valid in cells if valid}})
    for cell in block.texts:
        rows[cell.row][cell.column] = cell.value
    return rows

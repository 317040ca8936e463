"""A backend that keeps entries in the daemon's process, for tests of the stages before it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import msgspec

from tracker_daemon.aggregation.values.item import Item
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import Backend, Commit, RunDescription, not_open
from tracker_daemon.backends.decoding import (
    read_block,
    read_config,
    read_end,
    read_histograms,
    read_item,
    read_state,
    rows_of,
)
from tracker_daemon.outbox.entries import CONFIGS, EntryKind, OutboxEntry


class _State(msgspec.Struct, frozen=True):
    blocks: int
    configs: int
    ended: bool
    items: int = 0


@dataclass(eq=False)
class MemoryRun:
    """The data of one run. Hold ``changed`` to read several fields at one moment."""

    description: RunDescription
    blocks: list[RecordBlock] = field(default_factory=list)
    configs: list[dict[str, Any]] = field(default_factory=list)
    items: list[Item] = field(default_factory=list)
    status: str | None = None
    reason: str = ""
    changed: threading.Condition = field(default_factory=threading.Condition)

    @property
    def config(self) -> dict[str, Any]:
        """The configurations merged; a later value of a key replaces an earlier one."""
        return {key: value for config in self.configs for key, value in config.items()}

    def rows(self) -> list[dict[str, float | str]]:
        """Return the records in order of arrival, as dicts of ``step`` and the cells that each has."""
        return [{"step": row.step, **row.cells} for block in self.blocks for row in rows_of(block)]

    def wait_for(self, condition: Callable[[MemoryRun], bool], timeout_s: float) -> bool:
        """Wait until ``condition`` is true of this run; return False if ``timeout_s`` passes first."""
        with self.changed:
            return self.changed.wait_for(lambda: condition(self), timeout_s)


class MemoryBackend(Backend):
    """Keeps each run's entries in :attr:`runs`, by run id; they stay there after :meth:`close`."""

    name = "memory"
    runs: ClassVar[dict[str, MemoryRun]] = {}

    def __init__(self) -> None:
        self._run: MemoryRun | None = None

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Continue the run from ``state``; data that arrived after that state is dropped."""
        kept = read_state(state, _State, self.name) or _State(0, 0, False)
        mine = self.runs.setdefault(run.run_id, MemoryRun(run))
        with mine.changed:
            del mine.blocks[kept.blocks :], mine.configs[kept.configs :], mine.items[kept.items :]
            if not kept.ended:
                mine.status, mine.reason = None, ""
            mine.changed.notify_all()
        self._run = mine

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:  # noqa: ARG002  # the interface's
        """Keep ``entries``; nothing is committed on the way."""
        run = self._run
        if run is None:
            raise not_open(self.name)
        with run.changed:
            for entry in entries:
                _keep(run, entry)
            run.changed.notify_all()
            state = _State(len(run.blocks), len(run.configs), run.status is not None, len(run.items))
        return msgspec.msgpack.encode(state)

    def close(self) -> None:
        """Leave the run; its data stays in :attr:`runs`."""
        self._run = None

    def location(self) -> str | None:
        """Return ``memory:<run id>``."""
        return f"memory:{self._run.description.run_id}" if self._run else None


def _keep(run: MemoryRun, entry: OutboxEntry) -> None:
    if entry.kind is EntryKind.RECORDS:
        run.blocks.append(read_block(entry))
    elif entry.kind in {EntryKind.ITEM, EntryKind.FILES}:
        run.items.append(read_item(entry))
    elif entry.kind is EntryKind.HISTOGRAMS:
        run.items.extend(read_histograms(entry).items())
    elif entry.kind in CONFIGS:
        run.configs.append(read_config(entry))
    elif entry.kind is EntryKind.END:
        end = read_end(entry)
        run.status, run.reason = end.status.value, end.reason

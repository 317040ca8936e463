"""An outbox in memory: what was logged, in its order, as the entries that a pump reads.

Any thread adds; only the pump's reads, and makes entries of what it takes. Entries are numbered from 1 as a
journal's are, and are given again until the pump asks for what comes after them.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Iterator, Mapping
from itertools import groupby
from typing import Any

from tracker_client.refusals import Refusals
from tracker_client.rows import LoggedRow
from tracker_daemon.backends.base import EntryKind, OutboxEntry
from tracker_daemon.inprocess.blocks import BlockMaker
from tracker_protocol import limits

Content = tuple[EntryKind, bytes]
_Logged = LoggedRow | Content


class MemoryOutbox:
    """Holds at most ``points_max`` values; beyond them the oldest rows are dropped, and counted."""

    def __init__(self, refusals: Refusals, points_max: int = limits.INPROCESS_POINTS_MAX) -> None:
        self._refusals = refusals
        self._points_max = points_max
        self._lock = threading.Lock()
        self._waiting: deque[_Logged] = deque()
        self._waiting_points = 0
        self._dropped_points = 0
        # What follows is the pump's thread's alone.
        self._blocks = BlockMaker(refusals)
        self._entries: list[OutboxEntry] = []
        self._last = 0

    @property
    def dropped_points(self) -> int:
        """How many values did not fit, and will not be recorded."""
        return self._dropped_points

    def add_row(self, row: LoggedRow) -> None:
        """Add a row behind all that is there."""
        with self._lock:
            self._waiting.append(row)
            self._waiting_points += len(row.values)
            dropped = self._drop_oldest() if self._waiting_points > self._points_max else 0
        if dropped:
            self._refusals.warn_once(
                "log()", f"more than {self._points_max} values wait for their store; the oldest are dropped"
            )

    def add(self, kind: EntryKind, content: bytes | Mapping[str, Any]) -> None:
        """Add something that becomes an entry of its own: bytes as they are, or a JSON object."""
        payload = content if isinstance(content, bytes) else json.dumps(content).encode()
        with self._lock:
            self._waiting.append((kind, payload))

    def read(self, after: int) -> list[OutboxEntry]:
        """The next entries behind the one numbered ``after``; waits for values on their device."""
        self._entries = [entry for entry in self._entries if entry.number > after]
        if not self._entries:
            self._entries = [self._entry(kind, payload) for kind, payload in self._contents(self._slice())]
        return list(self._entries)

    def _drop_oldest(self) -> int:
        """Drop rows until a part of the room is free again; under the lock."""
        before = self._waiting_points
        target = self._points_max - self._points_max // limits.INPROCESS_DROP_SHARE
        kept: deque[_Logged] = deque()
        while self._waiting and self._waiting_points > target:
            oldest = self._waiting.popleft()
            if isinstance(oldest, LoggedRow):
                self._waiting_points -= len(oldest.values)
            else:
                kept.append(oldest)
        self._waiting.extendleft(reversed(kept))
        dropped = before - self._waiting_points
        self._dropped_points += dropped
        return dropped

    def _slice(self) -> list[_Logged]:
        taken: list[_Logged] = []
        points = 0
        with self._lock:
            while self._waiting and points < limits.INPROCESS_SLICE_POINTS:
                logged = self._waiting.popleft()
                taken.append(logged)
                if isinstance(logged, LoggedRow):
                    points += len(logged.values)
            self._waiting_points -= points
        return taken

    def _contents(self, taken: list[_Logged]) -> Iterator[Content]:
        for are_rows, group in groupby(taken, key=lambda logged: isinstance(logged, LoggedRow)):
            if are_rows:
                rows = (logged for logged in group if isinstance(logged, LoggedRow))
                for block in self._blocks.blocks(rows):
                    yield EntryKind.RECORDS, block.to_bytes()
            else:
                yield from (logged for logged in group if not isinstance(logged, LoggedRow))

    def _entry(self, kind: EntryKind, payload: bytes) -> OutboxEntry:
        self._last += 1
        return OutboxEntry(self._last, kind, payload)

"""An outbox in memory: logged data, in the order of the calls, as the entries that a pump reads.

Any thread adds data. Only the pump's thread reads: it makes rows of the calls, which may have to wait for
values on their device, and entries of the rows. Entries are numbered from 1, as in a journal, and are
returned again until the pump asks for later ones. Items with files are passed on to the files' lane once
their step is known.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from tracker_client.staging.buffer import NO_SHIFT, Entry, StepShift, points_of
from tracker_client.staging.items import PlacedItem
from tracker_client.staging.lossy_queue import Dropped, LossyQueue
from tracker_client.staging.resolving import wait_resolved
from tracker_client.staging.rows import LoggedRow, RowAssembler
from tracker_client.transport.uploads import Upload
from tracker_client.values.refusals import Refusals
from tracker_client.values.tally import Tally
from tracker_daemon.aggregation.values.item import Content, Item
from tracker_daemon.inprocess.blocks import BlockMaker
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol import limits

_Payload = tuple[EntryKind, bytes]


@dataclass(frozen=True, slots=True)
class _End:
    """The run's end, after all calls."""

    document: Mapping[str, Any]


class _Call(NamedTuple):
    """A call of ``log()``."""

    entry: Entry


_Other = _Payload | Upload | _End
_Logged = _Call | _Other
_TAKEN_AT_ONCE = 128


@dataclass(frozen=True, slots=True)
class _Dropped:
    """What remains of dropped calls, and everything else that was logged among them."""

    shift: StepShift
    points: int
    others: tuple[_Other, ...]


def _summary_of(logged: tuple[_Logged, ...]) -> _Dropped:
    calls = [one.entry for one in logged if isinstance(one, _Call)]
    others = tuple(one for one in logged if not isinstance(one, _Call))
    return _Dropped(NO_SHIFT.then(calls), sum(map(points_of, calls)), others)


def _points(logged: Iterable[_Logged | Dropped[_Dropped]]) -> int:
    return sum(points_of(one.entry) for one in logged if isinstance(one, _Call))


class MemoryOutbox:
    """An outbox of at most ``points_max`` values; beyond that the oldest calls are dropped and counted.

    ``pass_on`` is called on the pump's thread with each item that has files, and at last with the document of
    the run's end.
    """

    def __init__(
        self,
        refusals: Refusals,
        pass_on: Callable[[Upload | bytes], None] = lambda _: None,
        points_max: int = limits.INPROCESS_POINTS_MAX,
    ) -> None:
        self._refusals = refusals
        self._pass_on = pass_on
        self._points_max = points_max
        self._queue: LossyQueue[_Logged, _Dropped] = LossyQueue(_summary_of)
        self._points = Tally()
        self._dropping = threading.Lock()  # nobody waits for it
        # The fields below belong to the pump's thread alone.
        self._dropped_points = 0
        self._rows = RowAssembler(0, refusals)
        self._blocks = BlockMaker(refusals)
        self._parts: list[LoggedRow] = []  # of the newest row, which further calls may join
        self._entries: list[OutboxEntry] = []
        self._last = 0

    @property
    def dropped_points(self) -> int:
        """The number of values that did not fit and are not recorded."""
        return self._dropped_points + sum(dropped.points for dropped in self._queue.summaries())

    def add_call(self, call: Entry) -> None:
        """Add a call of ``log()``."""
        self._queue.entries.append(_Call(call))
        self._points.add(points_of(call))
        if self._points.value > self._points_max and self._dropping.acquire(blocking=False):
            try:
                self._drop_oldest()
            finally:
                self._dropping.release()
            self._refusals.warn_once(
                "log()", f"more than {self._points_max} values wait for their store; the oldest are dropped"
            )

    def add_config(self, values: Mapping[str, Any], *, later: bool = True) -> None:
        """Add a configuration; it is ``later`` if the run was not set up with it."""
        kind = EntryKind.LATER_CONFIG if later else EntryKind.CONFIG
        self._add((kind, json.dumps(values).encode()))

    def add_files(self, upload: Upload) -> None:
        """Add an item with files."""
        self._add(upload)

    def end(self, document: Mapping[str, Any]) -> None:
        """Add the run's end; nothing may be added after it."""
        self._add(_End(document))

    def read(self, after: int) -> list[OutboxEntry]:
        """Return the next entries after number ``after``; wait for values that are still on their device.

        The newest row is returned once a later row begins, at the end, or if nothing was logged since the
        last call.
        """
        self._entries = [entry for entry in self._entries if entry.number > after]
        if not self._entries:
            self._entries = self._next_entries()
        while not self._entries and self._queue.entries:
            self._entries = self._next_entries()
        return list(self._entries)

    def _next_entries(self) -> list[OutboxEntry]:
        return [self._entry(*payload) for payload in self._payloads(self._slice())]

    def _add(self, logged: _Logged) -> None:
        self._queue.entries.append(logged)

    def _drop_oldest(self) -> None:
        """Drop the oldest calls until a part of the room is free; keep their effect on automatic steps."""
        target = self._points_max - self._points_max // limits.INPROCESS_DROP_SHARE
        entries = self._queue.entries
        while entries and (excess := self._points.value - target) > 0:
            share = excess / max(1, self._points.value)
            self._points.add(-_points(self._queue.drop(max(1, int(share * len(entries))))))

    # ---- on the pump's thread --------------------------------------------------------------------

    def _slice(self) -> list[_Logged | Dropped[_Dropped]]:
        taken: list[_Logged | Dropped[_Dropped]] = []
        points = 0
        while (missing := limits.INPROCESS_SLICE_POINTS - points) > 0:
            some = self._queue.take(min(missing, _TAKEN_AT_ONCE))
            if not some:
                break
            taken += some
            points += _points(some)
        self._points.add(-points)
        return taken

    def _payloads(self, taken: list[_Logged | Dropped[_Dropped]]) -> Iterator[_Payload]:
        rows, self._parts = self._parts, []
        for logged in taken:
            if isinstance(logged, _Call):
                rows += self._rows.add(wait_resolved(logged.entry, self._refusals))
                continue
            if isinstance(logged, Dropped):
                self._dropped_points += logged.summary.points
                rows += self._rows.skip(logged.summary.shift)
                others = logged.summary.others
            else:
                others = (logged,)
            for other in others:
                if isinstance(other, _End):
                    rows += self._rows.end()
                else:
                    rows, self._parts = _without_row(rows, self._rows.newest)
                yield from self._recorded(rows)
                rows, self._parts = self._parts, []
                yield from self._others(other)
        if taken:
            rows, self._parts = _without_row(rows, self._rows.newest)
        yield from self._recorded(rows)

    def _recorded(self, rows: list[LoggedRow]) -> Iterator[_Payload]:
        """Yield the rows' numbers and texts; neither CSV nor MLflow can record histograms."""
        for block in self._blocks.blocks(rows):
            yield EntryKind.RECORDS, block.to_bytes()

    def _others(self, logged: _Payload | Upload | _End) -> Iterator[_Payload]:
        if isinstance(logged, Upload):
            logged.draft.set_missing_step(self._rows.reached)
            self._pass_on(logged)
        elif isinstance(logged, _End):
            document = json.dumps(logged.document).encode()
            self._pass_on(document)
            yield EntryKind.END, document
        else:
            yield logged

    def _entry(self, kind: EntryKind, payload: bytes) -> OutboxEntry:
        self._last += 1
        return OutboxEntry(self._last, kind, payload)


def _without_row(rows: list[LoggedRow], number: int | None) -> tuple[list[LoggedRow], list[LoggedRow]]:
    """Divide ``rows`` into those before row ``number``, and the parts of that row."""
    before = [row for row in rows if row.number != number]
    return before, rows[len(before) :]


def item_of(placed: PlacedItem) -> Item:
    """Convert an item to the backends' form."""
    contents = tuple(Content(one.sha256.hex(), one.size_bytes, one.path) for one in placed.contents)
    return Item(
        placed.kind, placed.key, placed.step, placed.time_ns, placed.document, contents, placed.automatic_step
    )

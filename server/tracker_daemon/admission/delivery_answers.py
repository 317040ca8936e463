"""Answers ranks that wait for their values to be in every backend, in the files, or in the journal.

A rank waits in ``finish``. So these answers have a task of their own, which looks more often than the
daemon's other periodic work.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tracker_daemon.aggregation.shared.fold import WaitingRows
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.delivery.run_delivery import RunDelivery
from tracker_daemon.errors import JournalError
from tracker_daemon.ingest.session import Session
from tracker_daemon.journal.access import JournalAccess
from tracker_daemon.recording.recorder import Recorder
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

_LOOK_INTERVAL_S = 0.01
_ROWS_INTERVAL_S = 0.2
_RANKS_NAMED = 8


@dataclass(slots=True, eq=False)
class _Awaited:
    asked: pb.AwaitDelivery
    until_s: float
    rows: WaitingRows | None = None
    """The rows of the rank that waited when they were last looked at."""
    rows_looked_at_s: float = 0.0
    entry: int | None = None
    """The last outbox entry that the files must have, once no row of the rank waits."""


class DeliveryAnswers:
    """Waits for deliveries, and answers. On the event loop."""

    def __init__(
        self,
        delivery: RunDelivery,
        pumps: PumpSet,
        recorder: Recorder,
        on_journal: JournalAccess,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._delivery = delivery
        self._pumps = pumps
        self._recorder = recorder
        self._on_journal = on_journal
        self._clock = clock
        self._awaited: dict[Session, _Awaited] = {}
        self._task: asyncio.Task[None] | None = None
        self.on_files_delivered: Callable[[], Awaitable[None]] | None = None
        """Awaited before the answer that all files are written."""

    def expect(self, session: Session, asked: pb.AwaitDelivery) -> None:
        """Answer ``session`` once its values are where it asks; of files after some seconds at most."""
        self._awaited[session] = _Awaited(asked, self._clock() + limits.FINISH_FILES_WAIT_S)
        self._pumps.hasten(session.stream.run.live.row_id)
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._run())

    def remove(self, session: Session) -> None:
        """Forget an ended connection."""
        self._awaited.pop(session, None)

    async def _run(self) -> None:
        while self._awaited:
            for session, awaited in list(self._awaited.items()):
                missing = await self._missing(session, awaited)
                if missing is not None and self._awaited.pop(session, None) is not None:
                    answer = pb.Delivered(missing=missing, recorded=awaited.asked.recorded)
                    session.send(pb.DaemonMessage(delivered=answer))
            await asyncio.sleep(_LOOK_INTERVAL_S)

    async def _missing(self, session: Session, awaited: _Awaited) -> str | None:
        """Return "" if everything is delivered, None to look again, else what is missing and why."""
        run = session.stream.run
        if awaited.asked.recorded:
            return "" if session.all_committed else None
        if not awaited.asked.files:
            return "" if self._delivery.is_delivered(run, all_committed=session.all_committed) else None
        if (
            awaited.entry is None
            and session.all_committed
            and not await self._has_open_rows(session, awaited)
        ):
            awaited.entry = run.live.view.last_entry
            self._pumps.hasten(run.live.row_id)
        if awaited.entry is not None and self._delivery.are_files_delivered(run, awaited.entry):
            if self.on_files_delivered is not None:
                await self.on_files_delivered()
            return ""
        return None if self._clock() < awaited.until_s else self._reason(session, awaited)

    async def _has_open_rows(self, session: Session, awaited: _Awaited) -> bool:
        """Return True if a row of the rank waits for other ranks."""
        live, now = session.stream.run.live, self._clock()
        if not session.stream.run.running or not live.view.open_rows:
            awaited.rows = None
        elif awaited.rows is None or now - awaited.rows_looked_at_s >= _ROWS_INTERVAL_S:
            awaited.rows_looked_at_s = now
            rank = session.stream.rank
            try:
                awaited.rows = await self._on_journal(
                    lambda _: self._recorder.fold_of(live).waiting_rows(rank)
                )
            except JournalError:  # the daemon is ending
                awaited.rows = None
        return awaited.rows is not None and bool(awaited.rows.steps)

    def _reason(self, session: Session, awaited: _Awaited) -> str:
        if awaited.rows is not None and awaited.rows.steps:
            return _described(awaited.rows)
        trouble = self._delivery.trouble_of_files(session.stream.run)
        return f"not everything is in its files yet: {trouble or 'the disk is slow'}"


def _described(rows: WaitingRows) -> str:
    first, last = rows.steps[0], rows.steps[-1]
    which = f"the row of step {first} is" if first == last else f"rows of the steps {first} to {last} are"
    named = ", ".join(map(str, rows.ranks[:_RANKS_NAMED]))
    more = f" and {len(rows.ranks) - _RANKS_NAMED} more" if len(rows.ranks) > _RANKS_NAMED else ""
    return f"{which} not in metrics.csv yet, and wait for rank{'s'[: len(rows.ranks) > 1]} {named}{more}"

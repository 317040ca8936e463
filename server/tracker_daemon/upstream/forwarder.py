"""The forwarder: cuts gathered values into batches for the root, and waits for their acknowledgement."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping

from tracker_daemon.backends.root import UPSTREAM
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.journal.event import EventKind
from tracker_daemon.journal.rows import Backlog
from tracker_daemon.outbox.lanes import FILES_LANE
from tracker_daemon.recording import events
from tracker_daemon.runs.run import Run
from tracker_daemon.upstream.forwarded_runs import ForwardedRun, ForwardedRuns, Waiting
from tracker_daemon.upstream.root_link import RootLink
from tracker_protocol import limits

_WATCH_INTERVAL_S = 0.01
_WATCH_S = 5.0
"""After this time without a new wait, :meth:`Forwarder.poll` alone looks."""
UPSTREAM_FILES = UPSTREAM + FILES_LANE
"""The name of the cursor for items with contents."""


class Forwarder:
    """Forwards ``runs`` through ``pumps``. On the event loop."""

    def __init__(self, runs: ForwardedRuns, pumps: PumpSet) -> None:
        self._runs = runs
        self._pumps = pumps
        self._closing: set[asyncio.Task[None]] = set()
        self._watching: asyncio.Task[None] | None = None
        self._watched_until_s = 0.0
        self._restored_positions: dict[str, Mapping[str, int]] = {}
        """By run: the position of each cursor when the run was restored; a delivered run has no pump."""

    def add_restored(self, run: Run, backlog: Backlog) -> None:
        """Add a run of the journal."""
        self._restored_positions[run.run_id] = {c.backend: c.position for c in backlog.cursors}
        self._runs.add_restored(run, backlog)

    def link_of(self, run: Run) -> RootLink:
        """Return the link of a run to the root."""
        return self._runs.find(run).link

    def submit(self, run: Run, kind: EventKind, payload: bytes) -> None:
        """Journal an event of a run."""
        self._runs.submit(run, kind, payload)

    # ---- cuts ------------------------------------------------------------------------------------

    def cut(
        self, run: Run, extent: events.ForwardExtent, on_committed: Callable[[], None] | None = None
    ) -> None:
        """Make batches of the gathered values; ``on_committed`` is called once the journal has them."""
        self._runs.find(run).cut_s = time.monotonic()
        self._runs.submit(run, EventKind.FORWARD, events.encode(int(extent)), on_committed)

    def once_acknowledged(self, run: Run, callback: Callable[[], None], *, with_files: bool = False) -> None:
        """Call ``callback`` when the root has everything that the run's ranks have sent until now."""

        def wait() -> None:
            view = run.live.view
            files = view.last_files if with_files else 0
            self._runs.find(run).waiting.append(Waiting(view.last_entry, files, callback))
            self._watch_acknowledgements()

        self.cut(run, events.ForwardExtent.EVERYTHING, wait)

    def _watch_acknowledgements(self) -> None:
        """Look often for a while: a rank may wait in ``finish``."""
        self._watched_until_s = time.monotonic() + _WATCH_S
        if self._watching is None or self._watching.done():
            self._watching = asyncio.get_running_loop().create_task(self._watch())

    async def _watch(self) -> None:
        while time.monotonic() < self._watched_until_s:
            waiting = [forwarded for forwarded in self._runs if forwarded.waiting]
            if not waiting:
                return
            for forwarded in waiting:
                self._call_acknowledged(forwarded)
            await asyncio.sleep(_WATCH_INTERVAL_S)

    # ---- periodic work ---------------------------------------------------------------------------

    def poll(self) -> None:
        """Do the work that is due; called several times a second."""
        now = time.monotonic()
        for forwarded in self._runs:
            self._journal_wanted_flushes(forwarded)
            self._send_heartbeat(forwarded, now)
            self._cut_if_due(forwarded, now)
            self._call_acknowledged(forwarded)
            self._remove_if_done(forwarded)

    def _journal_wanted_flushes(self, forwarded: ForwardedRun) -> None:
        run, wanted = forwarded.run, forwarded.link.root_learns
        if wanted != forwarded.flushes_wanted and run.live.row_id:
            forwarded.flushes_wanted = wanted
            self._runs.submit(run, EventKind.FLUSHES_WANTED, events.encode(int(wanted)))

    def _send_heartbeat(self, forwarded: ForwardedRun, now: float) -> None:
        if now - forwarded.heartbeat_s >= limits.NODE_HEARTBEAT_S:
            forwarded.heartbeat_s = now
            forwarded.link.send_heartbeat()

    def _cut_if_due(self, forwarded: ForwardedRun, now: float) -> None:
        interval_s = forwarded.link.flush_interval_s() or 0.0
        if forwarded.run.live.view.to_forward and now - forwarded.cut_s >= interval_s:
            self.cut(forwarded.run, events.ForwardExtent.WHOLE_ROWS)

    def _call_acknowledged(self, forwarded: ForwardedRun) -> None:
        if not forwarded.waiting:
            return
        reached = self._reached_positions(forwarded.run)
        due = [waiting for waiting in forwarded.waiting if _is_due(waiting, reached)]
        forwarded.waiting = [waiting for waiting in forwarded.waiting if waiting not in due]
        for waiting in due:
            waiting.callback()

    def _reached_positions(self, run: Run) -> Mapping[str, int]:
        healths = self._pumps.health(run.live.row_id)
        delivered = {cursor: health.delivered_entry for cursor, health in healths.items()}
        return {**self._restored_positions.get(run.run_id, {}), **delivered}

    def _remove_if_done(self, forwarded: ForwardedRun) -> None:
        run = forwarded.run
        if run.running or forwarded.waiting or run.live.view.to_forward:
            return
        if run.is_disconnected() and self._pumps.is_finished(run.live.row_id):
            self._runs.remove(forwarded)
            closing = asyncio.get_running_loop().create_task(forwarded.link.close())
            self._closing.add(closing)
            closing.add_done_callback(self._closing.discard)

    async def close(self) -> None:
        """Close the connections to the root."""
        if self._watching is not None:
            self._watching.cancel()
        await self._runs.close()


def _is_due(waiting: Waiting, reached: Mapping[str, int]) -> bool:
    return reached.get(UPSTREAM, 0) >= waiting.entry and reached.get(UPSTREAM_FILES, 0) >= waiting.files

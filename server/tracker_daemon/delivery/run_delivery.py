"""Opens a run's pumps when there is something to deliver.

After a restart a run's backends stay closed until its ranks are back. Only a rank knows if the journal has
lost something that it acknowledged. A backend that is opened before would cut its store back to the older
state. Once the loss is known, the journal begins a new epoch, which forbids that.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.registry import ELSEWHERE
from tracker_daemon.delivery.health import BackendHealth
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.delivery.run_directories import OnThread, RunDirectories
from tracker_daemon.journal.access import JournalAccess
from tracker_daemon.journal.rows import Backlog
from tracker_daemon.outbox.lanes import backend_of, is_files_lane
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Run
from tracker_protocol import limits

_FILES_BACKEND = "csv"
"""The backend that writes the files in a run's directory."""
RETURN_GRACE_S = 2 * limits.RECONNECT_BACKOFF_MAX_S
"""Seconds that a restarted daemon waits for a run's ranks before it delivers without them."""


class RunDelivery:
    """Opens and wakes ``pumps``. Used on the event loop."""

    def __init__(
        self,
        pumps: PumpSet,
        registry: Registry,
        on_journal: JournalAccess,
        epoch: Callable[[], int],
        contents: Path = Path(),
        state_dir: Path = Path(),
        on_thread: OnThread = asyncio.to_thread,
    ) -> None:
        self._pumps = pumps
        self._registry = registry
        self._on_journal = on_journal
        self._epoch = epoch
        self._contents = contents
        self._directories = RunDirectories(
            registry, on_journal, self._describe, self._is_recorded, state_dir, on_thread
        )
        self._opening: dict[int, asyncio.Task[None]] = {}
        self._ranks_awaited_until: dict[str, float] = {}
        """By run: when a restarted daemon stops waiting for the run's ranks, on the monotonic clock."""
        self._files_seen: dict[int, int] = {}
        """By run: the last FILES entry for which the lanes for files were opened."""

    # ---- opening ---------------------------------------------------------------------------------

    def resume(self, run: Run) -> None:
        """Deliver a run that was found in the journal; if it is running, once its ranks are back."""
        if run.running:
            self._ranks_awaited_until[run.run_id] = time.monotonic() + RETURN_GRACE_S
        else:
            self.deliver_new(run.live)

    async def begin(self, run: Run) -> None:
        """Open the backends of a new run, so that their state is shown."""
        await self._directories.claim(run)
        row_id = run.live.row_id
        backlog = await self._on_journal(lambda journal: journal.backlog(row_id))
        for cursor in backlog.cursors:
            if not is_files_lane(cursor.backend):
                self._pumps.open(row_id, self._describe(run, cursor.backend), cursor)

    def deliver_new(self, live: LiveRun) -> None:
        """Deliver what a run has new, if anything; opens or wakes its pumps."""
        if self._is_held(live) or not live.view.last_entry:
            return
        has_new_files = live.view.last_files > self._files_seen.get(live.row_id, 0)
        notified = self._pumps.notify(live.row_id)
        if (has_new_files or not notified) and live.row_id not in self._opening:
            self._opening[live.row_id] = asyncio.create_task(self._open(live))

    def _is_held(self, live: LiveRun) -> bool:
        return live.run_id in self._ranks_awaited_until

    async def _open(self, live: LiveRun) -> None:
        """Open the pumps of a run that has something to deliver and no pump for it.

        A lane for files is opened at its first FILES entry: for MLflow such a lane is a process of its own.
        """
        try:
            while True:
                backlog = await self._on_journal(lambda journal: journal.backlog(live.row_id))
                run = self._registry.runs.get(live.run_id)
                if run is not None:
                    if _concerns_directory(backlog):
                        await self._directories.claim(run)
                    self._open_backends(run, backlog)
                # A pump that was not open yet has not been notified of entries added meanwhile.
                if live.view.last_entry <= backlog.entries:
                    return
        finally:
            del self._opening[live.row_id]

    def _open_backends(self, run: Run, backlog: Backlog) -> None:
        self._files_seen[run.live.row_id] = backlog.last_files
        for cursor in backlog.cursors:
            if cursor.position < backlog.end_of(cursor):
                self._pumps.open(run.live.row_id, self._describe(run, cursor.backend), cursor)

    def _describe(self, run: Run, backend: str = "") -> RunDescription:
        row, options = run.row, run.options
        return RunDescription(
            row.run_id,
            row.project,
            row.name,
            Path(options.outdir),
            self._epoch(),
            run.attempt,
            options.backend_options.get(backend_of(backend), {}),
            options.environment,
            self._contents,
            metrics=options.metrics,
            created_ns=row.created_ns,
            system_prefix=options.system_prefix,
            mlflow_own_name=options.mlflow_own_name,
            layout=options.layout,
            directory=Path(options.directory) if options.directory else None,
            directory_id=options.directory_id,
            label=options.label,
            resumes=options.resumes,
        )

    # ---- from time to time -----------------------------------------------------------------------

    def poll(self) -> None:
        """Begin to deliver runs whose ranks are back, or for which the wait is over."""
        self._directories.poll()
        now = time.monotonic()
        for run_id, until in list(self._ranks_awaited_until.items()):
            run = self._registry.runs[run_id]
            if now >= until or not run.running or run.is_back():
                del self._ranks_awaited_until[run_id]
                self.deliver_new(run.live)

    async def open_all(self) -> None:
        """Open the pumps of each run that has something to deliver at once: the daemon is ending."""
        self._ranks_awaited_until.clear()
        for run in self._registry.runs.values():
            self.deliver_new(run.live)
        await asyncio.gather(*self._opening.values(), return_exceptions=True)

    def is_delivered(self, run: Run, *, all_committed: bool) -> bool:
        """Return True if every backend has everything that a connection sent to ``run``.

        ``all_committed``: the journal has all of that.
        """
        live, view = run.live, run.live.view
        if not all_committed or live.row_id in self._opening or self._is_held(live):
            return False
        if view.last_files > self._files_seen.get(live.row_id, 0):
            return False
        settled = view.open_rows == 0 or not run.running
        return settled and all(
            health.delivered_entry >= (view.last_files if is_files_lane(cursor) else view.last_entry)
            for cursor, health in self._pumps.health(live.row_id).items()
        )

    def are_files_delivered(self, run: Run, entry: int) -> bool:
        """Return True if the run's files have everything up to ``entry`` of its outbox."""
        live, view = run.live, run.live.view
        if live.row_id in self._opening or self._is_held(live):
            return False
        if view.last_files > self._files_seen.get(live.row_id, 0):
            return False
        return all(
            health.delivered_entry >= (min(entry, view.last_files) if is_files_lane(cursor) else entry)
            for cursor, health in self._health_of_files(run).items()
        )

    def trouble_of_files(self, run: Run) -> str:
        """Return the reason why the run's files are behind; "" if nothing is wrong."""
        return "; ".join(health.reason for health in self._health_of_files(run).values() if health.reason)

    def _health_of_files(self, run: Run) -> dict[str, BackendHealth]:
        healths = self._pumps.health(run.live.row_id)
        return {cursor: health for cursor, health in healths.items() if backend_of(cursor) == _FILES_BACKEND}

    def _is_recorded(self, run: Run) -> bool:
        """Return True if every backend that writes into the directory of an ended run has everything."""
        live, view = run.live, run.live.view
        if live.row_id in self._opening or self._is_held(live):
            return False
        if view.last_files > self._files_seen.get(live.row_id, 0):
            return False
        return all(
            health.delivered_entry >= (view.last_files if is_files_lane(cursor) else view.last_entry)
            for cursor, health in self._pumps.health(live.row_id).items()
            if backend_of(cursor) not in ELSEWHERE
        )

    async def close_directories(self) -> None:
        """Close the directories of the runs that are recorded in full: the daemon is ending."""
        await self._directories.close_all()

    def is_settled(self) -> bool:
        """Return True if no run is running and everything is delivered."""
        return not self._opening and all(self._is_over(run) for run in self._registry.runs.values())

    def _is_over(self, run: Run) -> bool:
        healths = self._pumps.health(run.live.row_id).values()
        delivered = all(health.delivered_entry >= run.live.view.last_entry for health in healths)
        return not run.running and delivered and not self._is_held(run.live)

    def progress(self) -> int:
        """Return a number that grows with each delivery."""
        runs = self._registry.runs.values()
        return sum(h.delivered_entry for run in runs for h in self._pumps.health(run.live.row_id).values())

    def forget_ended(self, keep: int) -> None:
        """Forget the oldest ended and delivered runs, so that ``keep`` of them are left."""
        for run in self._registry.forget_ended(keep, lambda run: self._pumps.is_finished(run.live.row_id)):
            self._pumps.forget(run.live.row_id)
            self._files_seen.pop(run.live.row_id, None)


def _concerns_directory(backlog: Backlog) -> bool:
    """Return True if a backend that writes into the run's directory lacks an entry."""
    local = (cursor for cursor in backlog.cursors if backend_of(cursor.backend) not in ELSEWHERE)
    return any(cursor.position < backlog.end_of(cursor) for cursor in local)

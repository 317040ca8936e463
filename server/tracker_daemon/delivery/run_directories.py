"""The runs' directories: claimed before the backends open, closed once a run is recorded in full.

Directories are made, moved and marked on threads, since a file system may be slow. A directory that cannot
be made is tried again from time to time; meanwhile the backends that need it show the reason.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any

import msgspec
import structlog

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.errors import BackendError
from tracker_daemon.files.layout import Layout
from tracker_daemon.files.run_directory import ClaimedDirectory, claim_directory, close_directory
from tracker_daemon.files.run_story import Story, beginning, ending
from tracker_daemon.journal.access import JournalAccess
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Run
from tracker_protocol import limits

_POLL_S = 0.05

OnThread = Callable[..., Awaitable[Any]]
"""Calls a function with arguments, on a thread; returns its result."""

log = structlog.get_logger(__name__)


class RunDirectories:
    """Claims and closes directories. On the event loop.

    ``describe`` describes a run for a backend. ``is_recorded`` returns True once all files of an ended run
    are written. ``state_dir`` is the daemon's. ``on_thread`` calls a function that works on files.
    """

    def __init__(
        self,
        registry: Registry,
        on_journal: JournalAccess,
        describe: Callable[[Run], RunDescription],
        is_recorded: Callable[[Run], bool],
        state_dir: Path,
        on_thread: OnThread = asyncio.to_thread,
    ) -> None:
        self._registry = registry
        self._on_journal = on_journal
        self._describe = describe
        self._is_recorded = is_recorded
        self._state_dir = state_dir
        self._on_thread = on_thread
        self._open: dict[str, Path] = {}
        """By run: the directory that this daemon may write to."""
        self._retry_at_s: dict[str, float] = {}
        """By run without a directory: when the next try is due, on the monotonic clock."""
        self._locks: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)
        self._tasks: set[asyncio.Task[None]] = set()

    async def claim(self, run: Run) -> None:
        """Claim the directory of ``run`` and send it to its ranks, unless it is claimed; retry failures."""
        if run.live.forwards or run.run_id in self._open:
            return
        async with self._locks[run.run_id]:
            if run.run_id not in self._open:
                await self._claim(run)

    async def _claim(self, run: Run) -> None:
        await self._await_predecessor(run)
        described = self._describe(run)
        closed = {one.run_id: self._is_closed(one) for one in self._registry.runs.values()}
        forgotten = self._registry.forgotten

        def is_closed(run_id: str) -> bool | None:
            return closed.get(run_id, True if run_id in forgotten else None)

        name, created_ns, known = described.name, described.created_ns, described.known_directory
        story = beginning(name, created_ns, world_size=run.world_size, state_dir=self._state_dir)
        try:
            claimed: ClaimedDirectory = await self._on_thread(
                claim_directory, described.place, story, known=known, is_closed=is_closed
            )
        except (OSError, BackendError) as error:
            log.warning("a run has no directory yet", run_id=run.run_id, reason=str(error))
            self._retry_at_s[run.run_id] = time.monotonic() + limits.RUN_DIRECTORY_RETRY_S
            return
        self._retry_at_s.pop(run.run_id, None)
        self._open[run.run_id] = claimed.path
        await self._note(run, claimed)

    async def _note(self, run: Run, claimed: ClaimedDirectory) -> None:
        """Journal the directory, and send it to the ranks; likewise for a run whose files were moved."""
        await self._set(run, claimed.path, claimed.directory_id)
        if claimed.moved is not None and (moved := self._registry.runs.get(claimed.moved.run_id)) is not None:
            await self._set(moved, claimed.moved.path, moved.options.directory_id)
        if claimed.notice:
            log.warning("a run has another directory than its output directory", reason=claimed.notice)
            for stream in run.current():
                if stream.rank == run.options.primary_rank and stream.connection is not None:
                    stream.connection.send_notice(claimed.notice)

    async def _set(self, run: Run, path: Path, directory_id: str) -> None:
        if run.options.directory != str(path):
            run.options = msgspec.structs.replace(run.options, directory=str(path), directory_id=directory_id)
            row_id, options = run.live.row_id, msgspec.json.encode(run.options).decode()
            await self._on_journal(lambda journal: journal.update_run(row_id, options=options))
        for stream in list(run.streams.values()):
            if stream.connection is not None:
                stream.connection.send_directory(run.options.directory)

    async def _await_predecessor(self, run: Run) -> None:
        """Wait a little for a run in the same directory that is about to be recorded in full."""
        until_s = time.monotonic() + limits.RUN_END_WAIT_S
        while self._has_ending_predecessor(run):
            if time.monotonic() >= until_s:
                return
            await asyncio.sleep(_POLL_S)

    def _has_ending_predecessor(self, run: Run) -> bool:
        options = run.options
        if options.layout is not Layout.BASE or options.directory:
            return False
        return any(
            other is not run
            and other.options.directory == options.outdir
            and not self._is_closed(other)
            and (not other.running or any(stream.finished for stream in other.current()))
            for other in self._registry.runs.values()
        )

    def _is_closed(self, run: Run) -> bool:
        return not run.running and self._is_recorded(run)

    # ---- from time to time -----------------------------------------------------------------------

    def poll(self) -> None:
        """Close the directories of runs that are recorded in full; try again to make missing ones."""
        now = time.monotonic()
        for run_id in [run_id for run_id, due in self._retry_at_s.items() if now >= due]:
            del self._retry_at_s[run_id]
            if (run := self._registry.runs.get(run_id)) is not None:
                self._start(self.claim(run))
        for run_id, path in self._closable().items():
            self._start(self._close(run_id, path))

    async def close_all(self) -> None:
        """Close the directories of all runs that are recorded in full: the daemon is ending."""
        await asyncio.gather(*(self._close(run_id, path) for run_id, path in self._closable().items()))

    def _closable(self) -> dict[str, Path]:
        runs = self._registry.runs
        done = (run_id for run_id in self._open if run_id not in runs or self._is_closed(runs[run_id]))
        return {run_id: self._open.pop(run_id) for run_id in list(done)}

    async def _close(self, run_id: str, path: Path) -> None:
        async with self._locks[run_id]:
            if run_id in self._open:  # claimed again meanwhile
                return
            run = self._registry.runs.get(run_id)
            try:
                await self._on_thread(close_directory, path, run_id, run and _end_of(run))
            except OSError as error:
                log.warning("a run's directory could not be closed", path=str(path), reason=str(error))

    def _start(self, work: Coroutine[Any, Any, None]) -> None:
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _end_of(run: Run) -> Story | None:
    view, summary = run.live.view, run.live.at_end
    if run.running:
        return None
    steps = () if summary is None else summary.last_step.values()
    return ending(
        view.status,
        view.reason,
        view.ended_ns,
        attempt=run.attempt,
        world_size=run.world_size or view.world_size,
        last_step=max(steps, default=None),
    )

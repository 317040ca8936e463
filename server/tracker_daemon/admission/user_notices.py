"""Warnings of runs for their users: in the daemon's log, and in a terminal.

A warning is shown by the run's primary rank if it is connected, else by ``run``. A daemon that ``run`` has
not started keeps a warning until the primary rank connects. After that rank's end only the log has it, and
the status.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

import structlog

from tracker_daemon.ingest.session import Session
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Stream
from tracker_protocol import limits

log = structlog.get_logger(__name__)


class UserNotices:
    """Shows warnings. On the event loop.

    ``print_line`` prints a line in the terminal of ``run``; None if there is none.
    """

    def __init__(self, registry: Registry, print_line: Callable[[str], None] | None = None) -> None:
        self._registry = registry
        self._print_line = print_line
        self._kept: dict[str, deque[str]] = {}
        """By run: the warnings that wait for the primary rank."""

    def show_new(self, live: LiveRun) -> None:
        """Log and show the new warnings of a run."""
        while live.warnings:
            text = live.warnings.popleft()
            log.warning(text, run_id=live.run_id)
            self._show(live.run_id, text)

    def _show(self, run_id: str, text: str) -> None:
        primary = self._primary_of(run_id)
        if primary is not None and isinstance(primary.connection, Session):
            primary.connection.send_notice(text)
        elif self._print_line is not None:
            self._print_line(f"tracker-daemon: {text}")
        elif primary is None or not (primary.finished or primary.lost):
            self._kept.setdefault(run_id, deque(maxlen=limits.WARNING_CAUSES_MAX)).append(text)

    def _primary_of(self, run_id: str) -> Stream | None:
        run = self._registry.runs.get(run_id)
        return run.by_rank.get((run.attempt, run.options.primary_rank)) if run is not None else None

    def send_kept(self, session: Session) -> None:
        """Send the kept warnings of its run to a rank that has connected, if it is the primary."""
        run_id = session.stream.run.run_id
        if session.stream is self._primary_of(run_id):
            for text in self._kept.pop(run_id, ()):
                session.send_notice(text)

    def forget(self, run_ids: frozenset[str]) -> None:
        """Forget all runs but ``run_ids``."""
        for run_id in self._kept.keys() - run_ids:
            del self._kept[run_id]

"""Ends runs from outside: their ranks are lost or absent, their launch has ended, or the daemon ends."""

from __future__ import annotations

import signal
from collections.abc import Iterable
from pathlib import Path

import structlog

from tracker_daemon.journal.event import EventKind
from tracker_daemon.recording import events
from tracker_daemon.recording.recorder import Recorder, Submission
from tracker_daemon.runs.launch_outcome import LaunchOutcome
from tracker_daemon.runs.overdue_ranks import find_absent_ranks, find_silent_ranks
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Run

log = structlog.get_logger(__name__)
KILLED = 128 + signal.SIGKILL
"""The exit code of a rank that is still connected when its job is killed."""


class RunEndings:
    """Finds ended ranks and runs, and has the recorder journal their end. Used on the event loop."""

    def __init__(self, registry: Registry, recorder: Recorder) -> None:
        self._registry = registry
        self._recorder = recorder

    def report_gone(
        self, lost_timeout_s: float, start_timeout_s: float, runs: Iterable[Run] | None = None
    ) -> None:
        """Report ranks as lost or absent; ``runs`` None: of all runs.

        A rank is lost after ``lost_timeout_s`` seconds without contact, and absent if it has not connected
        within ``start_timeout_s`` seconds.
        """
        runs = list(self._registry.runs.values() if runs is None else runs)
        self._report(find_silent_ranks(runs, lost_timeout_s), EventKind.LOST)
        self._report(find_absent_ranks(runs, start_timeout_s), EventKind.ABSENT)

    def end_with_launch(self, state_dir: Path, job_status: int | None, launch_id: str) -> None:
        """End runs whose job or command has ended: its exit status counts for ranks that did not finish.

        ``job_status`` is the job's exit status, if known; else ``state_dir`` may have the command's outcome.
        ``launch_id`` is this daemon's own launch. If the daemon forwards, the launch of all nodes has another
        id: then the command's ranks are those that connected to this daemon.
        """
        outcome = LaunchOutcome.read(state_dir)
        for run in [run for run in self._registry.runs.values() if run.running]:
            status = job_status
            if status is None and outcome is not None:
                here = run.live.forwards and run.visited and outcome.launch_id == launch_id
                if here or outcome.launch_id in run.row.launch_key:
                    status = outcome.exit_status
            if status is not None:
                payload = events.encode(status)
                self._recorder.submit(Submission(run.live, EventKind.LAUNCH_ENDED, payload=payload))

    def end_killed(self, runs: list[Run]) -> None:
        """End ``runs``: the job and their connected ranks are about to be killed."""
        self.report_gone(0.0, 0.0, runs)
        for run in runs:
            log.warning("ranks are still connected at the end of the job's grace", run_id=run.run_id)
            self._recorder.submit(Submission(run.live, EventKind.LAUNCH_ENDED, payload=events.encode(KILLED)))

    def end_disconnected(self, runs: list[Run]) -> None:
        """End ``runs``: the daemon is ending and none of their ranks is connected.

        Otherwise they would stay RUNNING for ever. Other runs continue with the next daemon on the state
        directory: those with connected ranks, and those whose ranks had no time yet to reconnect.
        """
        self.report_gone(0.0, 0.0, [run for run in runs if run.running])

    def _report(self, gone: dict[Run, list[int]], kind: EventKind) -> None:
        for run, ranks in gone.items():
            log.warning("ranks are gone", run_id=run.run_id, how=kind.name.lower(), ranks=ranks[:20])
            self._recorder.submit(Submission(run.live, kind, payload=events.encode(ranks)))

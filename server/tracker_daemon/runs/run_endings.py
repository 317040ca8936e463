"""What brings runs to their end from outside: ranks that are gone, their launch's end, the daemon's own."""

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
"""The exit code of a rank that outstays its job."""


class RunEndings:
    """Has the recorder journal what it finds out; on the event loop."""

    def __init__(self, registry: Registry, recorder: Recorder) -> None:
        self._registry = registry
        self._recorder = recorder

    def report_gone(
        self, lost_timeout_s: float, start_timeout_s: float, runs: Iterable[Run] | None = None
    ) -> None:
        """Ranks without contact for so long are lost, those that did not come for so long absent."""
        runs = list(self._registry.runs.values() if runs is None else runs)
        self._report(find_silent_ranks(runs, lost_timeout_s), EventKind.LOST)
        self._report(find_absent_ranks(runs, start_timeout_s), EventKind.ABSENT)

    def end_launched(self, state_dir: Path, job_status: int | None, launch_id: str) -> None:
        """Of a job or a command that has ended, the exit status stands for ranks that did not finish.

        ``launch_id`` is this daemon's own launch. Where it only forwards, the launch of all nodes has another
        one: there the command's ranks are those that came to this daemon.
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

    def end_outstayed(self, runs: list[Run]) -> None:
        """The job is about to be killed, with the ranks of ``runs`` that are still connected."""
        self.report_gone(0.0, 0.0, runs)
        for run in runs:
            log.warning("ranks outstay the job's grace", run_id=run.run_id)
            self._recorder.submit(Submission(run.live, EventKind.LAUNCH_ENDED, payload=events.encode(KILLED)))

    def end_abandoned(self, runs: list[Run]) -> None:
        """The daemon ends, and nobody is left in ``runs``: they must not stay RUNNING for ever.

        Runs with ranks that are connected still go on with the next daemon on the state directory, and
        so do those whose ranks had no time yet to come back to this one.
        """
        self.report_gone(0.0, 0.0, [run for run in runs if run.running])

    def _report(self, gone: dict[Run, list[int]], kind: EventKind) -> None:
        for run, ranks in gone.items():
            log.warning("ranks are gone", run_id=run.run_id, how=kind.name.lower(), ranks=ranks[:20])
            self._recorder.submit(Submission(run.live, kind, payload=events.encode(ranks)))

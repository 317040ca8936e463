"""Ends runs from outside: their ranks are lost or absent, their launch has ended, or the daemon ends."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterable
from pathlib import Path
from socket import gethostname

import msgspec
import structlog

from tracker_daemon.aggregation.values.batch import Exiting
from tracker_daemon.journal.event import EventKind
from tracker_daemon.processes.host_watch import HostWatch
from tracker_daemon.processes.launchers import reports_failures
from tracker_daemon.recording import events
from tracker_daemon.recording.recorder import Recorder, Submission
from tracker_daemon.runs.exit_statuses import ExitStatuses
from tracker_daemon.runs.launch_outcome import LaunchOutcome
from tracker_daemon.runs.overdue_ranks import find_absent_ranks, find_silent_ranks, find_vanished_ranks
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Run, Stream

log = structlog.get_logger(__name__)
_EXIT_CHECK_INTERVAL_S = 0.02
KILLED = 128 + signal.SIGKILL
"""The exit code of a rank that is still connected when its job is killed."""


class RunEndings:
    """Finds ended ranks and runs, and has the recorder journal their end. Used on the event loop."""

    def __init__(self, registry: Registry, recorder: Recorder, *, has_command: bool = False) -> None:
        """Make it for all runs; ``has_command``: this daemon's starter runs a command."""
        self._registry = registry
        self._recorder = recorder
        self._has_command = has_command
        self._host = HostWatch()
        self._exit_statuses = ExitStatuses(recorder, self._host, has_command=has_command)

    def expect_exit_status(self, stream: Stream, exiting: Exiting) -> None:
        """Wait for the exit status of a rank's process, whose script ended without ``finish()``."""
        self._exit_statuses.expect(stream, exiting)

    def poll(self, runs: Iterable[Run]) -> None:
        """Report what this host shows: exit statuses, and ranks whose processes are gone."""
        self._exit_statuses.poll()
        vanished = find_vanished_ranks(runs, self._host, self._awaits_command)
        self._report(vanished, EventKind.VANISHED)

    async def await_exit_statuses(self, timeout_s: float) -> None:
        """Wait until the exit statuses of ended ranks are known, for ``timeout_s`` seconds at most."""
        for _ in range(int(timeout_s / _EXIT_CHECK_INTERVAL_S)):
            if self._exit_statuses.are_known():
                return
            await asyncio.sleep(_EXIT_CHECK_INTERVAL_S)

    def settle_exit_statuses(self) -> None:
        """Journal every exit status as far as it is known: no process will be waited for any more."""
        self._exit_statuses.settle()

    def has_launcher(self) -> bool:
        """Return True if a process that started ranks lives here; before any, this daemon's starter."""
        places = (stream.place for stream in self._registry.streams.values())
        here = [place for place in places if self._host.is_here(place)]
        return not all(map(self._host.is_launcher_gone, here)) if here else self._host.is_starter_alive()

    def report_gone(
        self, lost_timeout_s: float, start_timeout_s: float, runs: Iterable[Run] | None = None
    ) -> None:
        """Report ranks as lost or absent; ``runs`` None: of all runs.

        A rank is lost after ``lost_timeout_s`` seconds without contact. It is absent if it has not connected
        within ``start_timeout_s`` seconds, or is expected no longer.
        """
        runs = list(self._registry.runs.values() if runs is None else runs)
        self._report(find_silent_ranks(runs, lost_timeout_s), EventKind.LOST)
        self._report(find_absent_ranks(runs, start_timeout_s, self._host), EventKind.ABSENT)

    def end_with_launch(self, state_dir: Path, job_status: int | None, launch_id: str) -> None:
        """End runs whose job or command has ended; see :meth:`Fold.end` for the ranks that did not finish.

        ``job_status`` is the job's exit status, if known; else ``state_dir`` may have the command's outcome.
        ``launch_id`` is this daemon's own launch. If the daemon forwards, the launch of all nodes has another
        id: then the command's ranks are those that connected to this daemon.
        """
        self.settle_exit_statuses()
        outcome = LaunchOutcome.read(state_dir)
        for run in [run for run in self._registry.runs.values() if run.running]:
            ended = None
            if job_status is not None:
                ended = events.LaunchEndedEvent(job_status)
            elif outcome is not None:
                here = run.live.forwards and run.visited and outcome.launch_id == launch_id
                if here or outcome.launch_id in run.row.launch_key:
                    ended = self._command_end(run, outcome)
            if ended is not None:
                self._report_vanished(run, ended)
                self._submit(run, EventKind.LAUNCH_ENDED, ended)

    def _report_vanished(self, run: Run, ended: events.LaunchEndedEvent) -> None:
        """Report the ranks whose processes are gone, and whose exit status the end does not give."""
        known = {*ended.own, *(ended.reported if ended.status == 0 else ())}
        gone = [
            stream.rank
            for stream in run.current()
            if not (stream.finished or stream.lost or stream.rank in known)
            and stream.connection is None
            and self._host.is_gone(stream.place)
        ]
        if gone:
            self._report({run: gone}, EventKind.VANISHED)

    def _command_end(self, run: Run, outcome: LaunchOutcome) -> events.LaunchEndedEvent:
        own, reported = [], []
        for stream in run.current():
            if self._is_command(stream, outcome):
                own.append(stream.rank)
            elif self._is_reported(stream, outcome):
                reported.append(stream.rank)
        return events.LaunchEndedEvent(outcome.exit_status, tuple(own), tuple(reported))

    def _is_command(self, stream: Stream, outcome: LaunchOutcome) -> bool:
        """Return True if the rank's process was the command itself."""
        here = self._host.is_here(stream.place) or (stream.place is None and stream.host == gethostname())
        return here and stream.pid == outcome.pid

    def _is_reported(self, stream: Stream, outcome: LaunchOutcome) -> bool:
        """Return True if all programs between the command and the rank report failures."""
        return reports_failures(self._programs_above(stream, outcome.starter_pid), outcome.program)

    def _awaits_command(self, stream: Stream) -> bool:
        """Return True if the running command will say if the rank, whose process is gone, ended well."""
        programs = self._programs_above(stream, self._host.starter_pid) if self._has_command else []
        return reports_failures(programs, command="")

    def _programs_above(self, stream: Stream, starter_pid: int) -> list[str]:
        """Return the programs between the rank and the process that started the command, nearest first."""
        programs: list[str] = []
        for ancestor in stream.place.ancestors if stream.place is not None else ():
            if self._host.is_here(stream.place) and ancestor.pid == starter_pid:
                break
            programs.append(ancestor.program)
        return programs

    def end_killed(self, runs: list[Run]) -> None:
        """End ``runs``: the job and their connected ranks are about to be killed."""
        self.report_gone(0.0, 0.0, runs)
        self.settle_exit_statuses()
        for run in runs:
            log.warning("ranks are still connected at the end of the job's grace", run_id=run.run_id)
            ranks = tuple(stream.rank for stream in run.current())
            self._submit(run, EventKind.LAUNCH_ENDED, events.LaunchEndedEvent(KILLED, own=ranks))

    def end_disconnected(self, runs: list[Run]) -> None:
        """End ``runs``: the daemon is ending and none of their ranks is connected.

        Otherwise they would stay RUNNING for ever. Other runs continue with the next daemon on the state
        directory: those with connected ranks, and those whose ranks had no time yet to reconnect.
        """
        self.report_gone(0.0, 0.0, [run for run in runs if run.running])

    def _report(self, gone: dict[Run, list[int]], kind: EventKind) -> None:
        for run, ranks in gone.items():
            log.warning("ranks are gone", run_id=run.run_id, how=kind.name.lower(), ranks=ranks[:20])
            self._submit(run, kind, ranks)

    def _submit(self, run: Run, kind: EventKind, payload: msgspec.Struct | list[int]) -> None:
        self._recorder.submit(Submission(run.live, kind, payload=events.encode(payload)))

"""Classes of training scripts as backends: those of each run, and their connections.

The classes live in the primary rank's process. While that process is connected, their links are attached to
its session. After the primary rank has finished, its classes wait SCRIPT_END_PATIENCE_S seconds for the run's
end: the other ranks usually finish at about the same time. It may not come: the run still runs, or had ended
before. Then every open cell with values of the primary rank must close, and the classes must take all records
up to that point. After that they receive a last message, and later records are set aside.

A process that disconnects without finishing may return while its run is running. If the run has ended and the
process has been away for longer than a reconnection takes, nothing waits for it any more.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import structlog

from tracker_daemon.admission.script_messages import last_message, script_parts
from tracker_daemon.backends.third_party.script_class import SCRIPT_STATE
from tracker_daemon.backends.third_party.script_link import ScriptAnswer, ScriptLinks, SendEntry
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.delivery.thinned_backend import is_script
from tracker_daemon.ingest.session import Session
from tracker_daemon.journal.rows import CursorRow
from tracker_daemon.outbox.entries import OutboxEntry
from tracker_daemon.outbox.lanes import is_files_lane
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Admission, Run, Stream
from tracker_protocol import limits
from tracker_protocol.backend_names import split_backend_names
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)
_PARTIAL_GRACE_S = 2.0
"""The time after the last cells are due in which a tick closes them."""


@dataclass(slots=True, eq=False)
class _ReceivingSession:
    """A session whose classes receive records."""

    session: Session
    sends: dict[str, SendEntry]
    finished_s: float | None = None
    last_entry: int | None = None
    """The last outbox entry for the classes; None while it is not known."""
    last_message_sent: bool = False


class ScriptBackends:
    """The script's classes of all runs. On the event loop.

    ``partial_after_s`` is the longest time that a cell stays open, in seconds.
    """

    def __init__(
        self, links: ScriptLinks, pumps: PumpSet, registry: Registry, partial_after_s: float
    ) -> None:
        self._links = links
        self._pumps = pumps
        self._registry = registry
        self._partial_after_s = partial_after_s
        self._receiving: dict[bytes, _ReceivingSession] = {}
        self._unattended_since_s: dict[str, float] = {}

    # ---- sessions ---------------------------------------------------------------------------------

    def new_backends(
        self, admission: Admission, declared: Iterable[str], known: frozenset[str]
    ) -> dict[str, bytes]:
        """Add new backends to the run; return the first state of their cursors.

        A declared class takes precedence over a backend of the daemon if its rank opens the run. The primary
        rank may later add names that neither has.

        Args:
            admission: the rank's admission.
            declared: the classes of this rank's script.
            known: the daemon's own backends.
        """
        run, stream = admission.stream.run, admission.stream
        wanted = [name for name in split_backend_names(run.options.backends) if name not in run.backends]
        new = {}
        if admission.new_run or stream.rank == run.options.primary_rank:
            new = dict.fromkeys((name for name in wanted if name in declared), SCRIPT_STATE)
        if admission.new_run:
            new.update((name, b"") for name in wanted if name in known and name not in new)
        run.backends.extend(new)
        run.script_backends.update(name for name, state in new.items() if state == SCRIPT_STATE)
        return new

    def classes_of(self, stream: Stream, declared: Iterable[str]) -> list[str]:
        """Return the run's classes that live in this stream's process, if it is the primary rank's."""
        run = stream.run
        is_primary = stream.rank == run.options.primary_rank and stream.attempt == run.attempt
        return sorted(run.script_backends.intersection(declared)) if is_primary else []

    def add_restored(self, run: Run, cursors: Sequence[CursorRow]) -> None:
        """Add a run of the journal."""
        run.backends = [cursor.backend for cursor in cursors if not is_files_lane(cursor.backend)]
        run.script_backends.update(cursor.backend for cursor in cursors if is_script(cursor.state))
        if run.script_backends:
            self._unattended_since_s[run.run_id] = time.monotonic()

    def attach(self, session: Session, backends: list[str]) -> None:
        """Deliver to the classes ``backends`` through ``session`` from now on."""
        if not backends:
            return
        stream, run = session.stream, session.stream.run
        receiving = self._receiving[stream.stream_id] = _ReceivingSession(session, {})
        session.on_taken = partial(self.take_answer, session)
        where = f"rank {stream.rank}, {stream.label()}"
        live_after = None if stream.finished else run.live.view.last_entry
        for backend in backends:
            receiving.sends[backend] = _sender(session, backend)
            self._links.of(run.run_id, backend).attach(where, receiving.sends[backend], live_after)
            self._pumps.resume(run.live.row_id, backend)
        self._unattended_since_s.pop(run.run_id, None)

    def detach(self, session: Session) -> None:
        """Stop delivering through ``session``: its connection has ended."""
        stream = session.stream
        receiving = self._receiving.get(stream.stream_id)
        if receiving is None or receiving.session is not session:
            return
        del self._receiving[stream.stream_id]
        for backend, send in receiving.sends.items():
            self._links.of(stream.run.run_id, backend).detach(send)
        self._unattended_since_s[stream.run.run_id] = time.monotonic()

    def take_answer(self, session: Session, answer: pb.BackendTaken) -> None:
        """Handle an answer of one of the classes of ``session``."""
        receiving = self._receiving.get(session.stream.stream_id)
        if receiving is None or receiving.session is not session or answer.backend not in receiving.sends:
            return
        link = self._links.of(session.stream.run.run_id, answer.backend)
        link.answer(ScriptAnswer(answer.epoch, answer.entry, answer.refused_records, answer.problem))
        if answer.closed:
            link.close(answer.problem or "it has finished")

    # ---- periodic work ---------------------------------------------------------------------------

    def poll(self) -> None:
        """Send due last messages, and give up processes that have been away for too long."""
        now = time.monotonic()
        for receiving in self._receiving.values():
            if receiving.session.stream.finished and receiving.session.all_committed:
                self._send_last_message_if_due(receiving, now)
        for run_id, since in list(self._unattended_since_s.items()):
            run = self._registry.runs.get(run_id)
            if run is None:
                del self._unattended_since_s[run_id]
                self._links.forget(run_id)
            elif not run.running and now - since >= 2 * limits.RECONNECT_BACKOFF_MAX_S:
                del self._unattended_since_s[run_id]
                self._give_up(run)

    def _send_last_message_if_due(self, receiving: _ReceivingSession, now: float) -> None:
        run = receiving.session.stream.run
        if receiving.finished_s is None:
            receiving.finished_s = now
        if receiving.last_message_sent or now - receiving.finished_s < limits.SCRIPT_END_PATIENCE_S:
            return
        closed_by = receiving.finished_s + self._partial_after_s + _PARTIAL_GRACE_S
        if receiving.last_entry is None and (run.live.view.open_rows == 0 or now >= closed_by):
            receiving.last_entry = run.live.view.last_entry
        healths = self._pumps.health(run.live.row_id)
        if receiving.last_entry is not None and all(
            healths[backend].delivered_entry >= receiving.last_entry
            for backend in receiving.sends
            if backend in healths
        ):
            receiving.last_message_sent = True
            for backend in receiving.sends:
                receiving.session.send(last_message(backend))

    def _give_up(self, run: Run) -> None:
        for backend in run.script_backends:
            link = self._links.of(run.run_id, backend)
            if not link.is_closed:
                link.close("its process has not returned, and the run has ended")
                self._pumps.resume(run.live.row_id, backend)


def warn_of_unknown(session: Session, known: Iterable[str]) -> None:
    """Send the rank of ``session`` the names of unknown backends, with advice."""
    run = session.stream.run
    for name in split_backend_names(run.options.backends):
        if name in run.backends:
            continue
        text = (
            f"there is no backend {name!r}; this daemon has {', '.join(sorted(known))}. Install a package "
            f"that adds it where the daemon runs, or call register_backend({name!r}, …) on every rank before "
            "setup_tracker. The others continue"
        )
        log.warning(text, run_id=run.run_id)
        session.send_notice(text)


def _sender(session: Session, backend: str) -> SendEntry:
    loop = asyncio.get_running_loop()

    def send(epoch: int, entry: OutboxEntry) -> None:
        # On the pump's thread, since dividing an entry would delay the event loop.
        for part in script_parts(backend, epoch, entry):
            if loop.is_closed():
                return
            loop.call_soon_threadsafe(session.send, part)

    return send

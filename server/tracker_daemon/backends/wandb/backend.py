"""The W&B backend: one W&B run for one run, online, offline, shared or disabled.

What a delivery hands to the SDK is *delivered* once it is in the SDK's own log on the disk
(``<outdir>/wandb/*run-*/run-<id>.wandb``), read back and synced. Online the SDK uploads from there as
it can, and the run's end waits until it has. The state is the id, the last ``_step``, the directory with
that log and, once the run has ended, its exit code. ``_step`` follows from the records' order and the
last one committed (see wandb_rows), so a repeated delivery computes the same again.

After a restart the run is begun again in a new directory, and all of it that is nowhere else is logged
there once more, from the old directory's log: offline every row up to the last committed ``_step``;
online those above the last ``_step`` that the server says it has. Then the new directory is committed
and the old one removed. So there is one directory for each run, which holds each row once; a crash on
the way leaves an uncommitted one, which is removed at the next opening. In a later epoch of the journal
than the state's the journal has lost something, and no row and no directory is left out for the state's sake.

The limits:

* online, W&B must tell its last ``_step`` truly when a run is resumed. Where the server answers from a
  stale copy, rows are sent twice, with the same ``_step`` and content.
* offline, ``wandb sync`` what has ended. After a sync in the middle of the run and a restart, the new
  directory holds the rows that were synced once more.
* shared, the server numbers the rows and says nothing of what it has: none is sent again, and what the
  SDK's process had not uploaded when it died is in the old directory only, which is kept.
* disabled, nothing is recorded.
* a run that is let go before its end (the daemon stops) shows as failed at W&B until it is taken up.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import msgspec
import structlog

from tracker_daemon.aggregation.shared.histograms import HistogramRow
from tracker_daemon.aggregation.shared.record import RecordBlock
from tracker_daemon.backends.base import Backend, Commit, RunDescription, RunStatus, SetAside
from tracker_daemon.backends.child.heartbeat import signs_of_life
from tracker_daemon.backends.decoding import read_state
from tracker_daemon.backends.wandb.artifacts import ArtifactQueue
from tracker_daemon.backends.wandb.init_arguments import Mode, mode_of, wandb_id
from tracker_daemon.backends.wandb.items import (
    ArtifactShelf,
    NumberedItem,
    UnusableItem,
    revived,
    sdk_value,
)
from tracker_daemon.backends.wandb.rows import NO_STEP, histogram_row, wandb_rows
from tracker_daemon.backends.wandb.session import WandbSession
from tracker_daemon.backends.wandb.session_directory import (
    SessionDirectory,
    SessionStartNote,
    session_directories,
)
from tracker_daemon.backends.wandb.transaction_log import LoggedConfig, LoggedRow, TransactionLog
from tracker_daemon.errors import BackendRefused, BackendUnavailable, PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol import limits

END_REASON = "tracker/end_reason"

log = structlog.get_logger(__name__)


class _State(msgspec.Struct, frozen=True):
    wandb_id: str
    epoch: int
    attempt: int
    last_step: int = NO_STEP
    directory: str = ""
    exit_code: int | None = None
    location: str | None = None


class _End(msgspec.Struct, frozen=True):
    status: RunStatus
    reason: str = ""


_TAKEN = frozenset(
    {EntryKind.RECORDS, EntryKind.CONFIG, EntryKind.END, EntryKind.FILES, EntryKind.HISTOGRAMS}
)
_Change = RecordBlock | HistogramRow | dict[str, Any] | _End | NumberedItem


@dataclass
class _Heartbeat:
    commit: Commit
    state: bytes
    last: float = field(default_factory=time.monotonic)

    def beat(self) -> None:
        now = time.monotonic()
        if now - self.last >= limits.CHILD_HEARTBEAT_S:
            self.commit(self.state)
            self.last = now


class WandbBackend(Backend):
    """Records a run with the ``wandb`` SDK."""

    name = "wandb"

    def __init__(self) -> None:
        self._run: RunDescription | None = None
        self._mode = Mode.DISABLED
        self._committed: bytes | None = None
        self._state = _State("", 1, 1)
        self._session: WandbSession | None = None
        self._begun = False
        self._caught_up = False
        self._handles: dict[str, str] = {}
        self._set_aside: list[SetAside] = []
        self._artifacts = ArtifactQueue()

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Begin or continue the W&B run, unless it has ended; see :class:`Backend`."""
        self.close()
        self._run, self._mode, self._committed = run, mode_of(run), state
        self._state = read_state(state, _State, "W&B") or _State(wandb_id(run), run.epoch, run.attempt)
        if run.attempt > self._state.attempt:
            self._state = msgspec.structs.replace(self._state, attempt=run.attempt, exit_code=None)
        self._handles = {"id": self._state.wandb_id, "mode": self._mode.value}
        if self._mode is Mode.DISABLED:
            return
        _prepare_directory(run.outdir)
        with _translated_file_errors():
            SessionStartNote(run.outdir, run.run_id, self._state.wandb_id).settle()
            for segment in self._own_segments(run):
                segment.end_writer()
            uncommitted = self._remove_unused(run)
            self._begun = state is not None or uncommitted > 0
            # An ended run is not begun again for nothing, and a log offline not repeated.
            if state is None or (self._mode.remote and self._state.exit_code is None):
                self._begin()

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Log ``entries`` and return once they are on the disk, at the run's end once uploaded."""
        if self._run is None:
            raise BackendUnavailable("the W&B backend is not open; open it with the last committed state")
        changes = [_change(entry, self._run.contents) for entry in entries if entry.kind in _TAKEN]
        self._set_aside = []
        if self._mode is not Mode.DISABLED:
            with _translated_file_errors():
                self._record(changes, commit)
        self._committed = msgspec.msgpack.encode(self._state)
        return self._committed

    def set_aside(self) -> Sequence[SetAside]:
        """Which items of the last delivery the SDK did not take; see :class:`Backend`."""
        return self._set_aside

    def trouble(self) -> str:
        """Why the SDK is still trying to upload what it has on disk, if it is; see :class:`Backend`."""
        return self._session.trouble() if self._session is not None else ""

    def close(self) -> None:
        """Let go of the run; one that has not ended waits to be taken up again."""
        session, self._session = self._session, None
        self._caught_up = False
        self._artifacts.close()
        if session is not None:
            session.release()

    def location(self) -> str | None:
        """The run's URL, or offline its directory; None where nothing is recorded."""
        return self._state.location

    def handles(self) -> Mapping[str, str]:
        """The run's id, name and addresses, known from its beginning on."""
        return self._handles

    def _begin(self) -> WandbSession:
        run, state = self._opened(), self._state
        session = WandbSession(run, self._mode, begun=self._begun, continues=state.directory)
        self._session, self._begun = session, True
        self._artifacts.close()
        self._artifacts = ArtifactQueue()
        self._caught_up = False
        self._handles = session.handles
        location = session.url or str(session.segment.directory)
        self._state = msgspec.structs.replace(state, location=location)
        return session

    def _record(self, changes: Sequence[_Change], commit: Commit) -> None:
        session = self._session or self._begin()
        self._catch_up(session, commit)
        assert self._committed is not None
        heartbeat = _Heartbeat(commit, self._committed)
        for change in changes:
            self._apply(session, change, heartbeat)
        ended = self._state.exit_code is not None
        self._log_artifacts(session, heartbeat, all_of_them=ended)
        session.settle()
        if self._state.exit_code is not None:
            session.finish(self._state.exit_code)
            self._session = None
            if self._mode is Mode.ONLINE:
                self._shelf().clear()

    def _catch_up(self, session: WandbSession, commit: Commit) -> None:
        """Bring the new directory to what is committed, and commit that it now holds the run."""
        if self._caught_up:
            return
        run, state = self._opened(), self._state
        journal_lost_some = run.epoch > state.epoch
        last_step = state.last_step
        old = SessionDirectory(Path(state.directory)) if state.directory else None
        if old is not None and self._committed is not None and self._mode is not Mode.SHARED:
            heartbeat = _Heartbeat(commit, self._committed)
            last_step = self._repeat(old, session, heartbeat, to_its_end=journal_lost_some)
        if self._committed is None or journal_lost_some:
            last_step = max(last_step, session.last_remote_step)
        for place in self._shelf().kept():
            # Where the journal has lost some, the same number may be given to another artifact.
            self._artifacts.put(place, known=not journal_lost_some)
        self._state = msgspec.structs.replace(
            state, epoch=run.epoch, last_step=last_step, directory=str(session.segment.directory)
        )
        self._committed = msgspec.msgpack.encode(self._state)
        commit(self._committed)
        self._caught_up = True
        self._remove_unused(run)

    def _repeat(
        self, old: SessionDirectory, session: WandbSession, heartbeat: _Heartbeat, *, to_its_end: bool
    ) -> int:
        """Log again what ``old`` holds and the server does not; return the last ``_step`` there is then."""
        state, last_step = self._state, NO_STEP
        for logged in TransactionLog(old.log(state.wandb_id)).read():
            if isinstance(logged, LoggedConfig):
                if logged.values:
                    session.configure(logged.values)
                continue
            if logged.step > state.last_step and not to_its_end:
                continue
            last_step = logged.step
            if logged.step > session.last_remote_step:
                session.log(replace(logged, values=revived(logged.values, old.directory)))
            heartbeat.beat()
        if max(last_step, session.last_remote_step) < state.last_step:
            log.error(
                "rows of the W&B run are missing: their directory is gone or damaged",
                directory=str(old.directory), from_step=last_step + 1, to_step=state.last_step,
            )  # fmt: skip
        session.settle()
        return max(last_step, state.last_step)

    def _apply(self, session: WandbSession, change: _Change, heartbeat: _Heartbeat) -> None:
        if isinstance(change, (RecordBlock, HistogramRow)):
            last_step = self._state.last_step
            rows = (
                wandb_rows(change, last_step)
                if isinstance(change, RecordBlock)
                else [histogram_row(change, last_step)]
            )
            for row in rows:
                last_step = row.step
                # What a delivery before a crash brought to the server is there; W&B would drop it too.
                if row.step > session.last_remote_step:
                    session.log(row)
                heartbeat.beat()
            self._state = msgspec.structs.replace(self._state, last_step=last_step)
        elif isinstance(change, NumberedItem):
            self._apply_item(session, change, heartbeat)
            heartbeat.beat()
        elif isinstance(change, dict):
            session.configure(change)
        else:
            if change.reason:
                session.summarise({END_REASON: change.reason})
            exit_code = 1 if change.status is RunStatus.FAILED else 0
            self._state = msgspec.structs.replace(self._state, exit_code=exit_code)

    def _log_artifacts(self, session: WandbSession, heartbeat: _Heartbeat, *, all_of_them: bool) -> None:
        """Log those whose digests are known by now, or wait for all; what the SDK refuses is set aside."""
        queue = self._artifacts
        refused = (
            queue.log_all(session.log_artifact, heartbeat.beat)
            if all_of_them
            else queue.log_ready(session.log_artifact)
        )
        for place, reason in refused:
            self._set_aside.append(SetAside(int(place.name), 0, reason))
            self._shelf().drop(place)

    def _apply_item(self, session: WandbSession, change: NumberedItem, heartbeat: _Heartbeat) -> None:
        if change.is_artifact:
            if self._shelf().place(change.number) not in self._artifacts:
                with signs_of_life(heartbeat.commit, heartbeat.state):  # it may be copied
                    place = self._shelf().put(change)
                self._artifacts.put(place)
            return
        try:
            with sdk_value(change) as value:
                if value is None:
                    return
                row = change.row(self._state.last_step, value)
                if row.step > session.last_remote_step:
                    session.log(row)
        except UnusableItem as error:
            self._set_aside.append(SetAside(change.number, 0, str(error)))
            return
        self._state = msgspec.structs.replace(self._state, last_step=row.step)

    def _shelf(self) -> ArtifactShelf:
        return ArtifactShelf(self._opened().outdir, self._state.wandb_id)

    def _remove_unused(self, run: RunDescription) -> int:
        """Remove the directory that the committed one continues, and what was begun and never committed.

        Returns how many there were.
        """
        if self._mode is Mode.SHARED or run.epoch > self._state.epoch:
            return 0
        current = self._session.segment if self._session is not None else None
        unused = [one for one in self._own_segments(run) if one != current and self._is_unused(one)]
        for segment in unused:
            segment.remove()
        return len(unused)

    def _is_unused(self, segment: SessionDirectory) -> bool:
        committed = self._state.directory
        if committed:
            return (
                segment.continues == committed
                or str(segment.directory) == SessionDirectory(Path(committed)).continues
            )
        # Nothing is logged before the first commit, so one with rows is another daemon's.
        return segment.continues == "" and not _has_rows(segment, self._state.wandb_id)

    def _own_segments(self, run: RunDescription) -> list[SessionDirectory]:
        found = session_directories(run.outdir, self._state.wandb_id)
        return [segment for segment in found if segment.belongs_to(run.run_id)]

    def _opened(self) -> RunDescription:
        assert self._run is not None
        return self._run


def _has_rows(segment: SessionDirectory, wandb_id: str) -> bool:
    return any(isinstance(logged, LoggedRow) for logged in TransactionLog(segment.log(wandb_id)).read())


@contextmanager
def _translated_file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackendUnavailable(
            f"W&B's files: {error.filename or ''} {error.strerror or error}; delivery tries again"
        ) from error


def _prepare_directory(outdir: Path) -> None:
    """Make sure that it can be written: the SDK would go to a temporary directory without a word."""
    try:
        directory = outdir / "wandb"
        directory.mkdir(parents=True, exist_ok=True)
        probe = directory / ".tracker-writable"
        probe.touch()
        probe.unlink(missing_ok=True)
    except OSError as error:
        raise BackendRefused(
            f"W&B's files cannot be written to {outdir}: {error.strerror or error}; let the daemon's user "
            "write there, or choose another outdir"
        ) from error


def _change(entry: OutboxEntry, contents: Path) -> _Change:
    if entry.kind is EntryKind.FILES:
        return NumberedItem.of(entry, contents)
    try:
        if entry.kind is EntryKind.RECORDS:
            return RecordBlock.from_bytes(entry.payload)
        if entry.kind is EntryKind.HISTOGRAMS:
            histograms = HistogramRow.from_bytes(entry.payload)
            histogram_row(histograms, NO_STEP)
            return histograms
        if entry.kind is EntryKind.END:
            return msgspec.json.decode(entry.payload, type=_End)
        config = json.loads(entry.payload)
    except ValueError as error:  # msgspec's, numpy's and json's errors are all ValueErrors.
        raise PoisonEntry(f"outbox entry {entry.number} cannot be read: {error}") from error
    if not isinstance(config, dict):
        raise PoisonEntry(f"outbox entry {entry.number} holds a configuration that is no JSON object")
    return config

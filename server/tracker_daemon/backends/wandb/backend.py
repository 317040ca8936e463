"""The W&B backend: one W&B run for one run, online, offline, shared or disabled.

An entry counts as delivered once its data is in the SDK's own log on the disk
(``<outdir>/wandb/*run-*/run-<id>.wandb``), read back and synced. Online the SDK uploads from that log when
it can, and the run's end waits for the upload. The state holds the id, the last ``_step``, the directory of
that log and, once the run has ended, its exit code. ``_step`` follows from the order of the records and
from the last committed ``_step`` (see ``rows``), so a repeated delivery computes the same steps.

After a restart the run continues in a new session, which has a new directory. The session logs again, from
the old directory's log, all data that is nowhere else: offline every row up to the last committed
``_step``, online the rows above the last ``_step`` that the server reports. Then the new directory is
committed and the old one is removed. So each run has one directory, which holds each row once. A crash in
between leaves an uncommitted directory, which the next opening removes. If the journal is in a later epoch
than the state, the journal has lost data. Then no row is skipped and no directory is removed because of the
state.

Limits:

* Online, W&B must report its last ``_step`` correctly when a run is resumed. If the server answers from an
  outdated copy, rows are sent twice, with the same ``_step`` and content.
* Offline, use ``wandb sync`` only on ended runs. After a sync during the run and a restart, the new directory
  holds the synced rows once more.
* Shared, the server numbers the rows and does not report its last one, so no row is sent again. Data that a
dead
  SDK process had not uploaded is in the old directory only, and that directory is kept.
* Disabled, nothing is recorded.
* If the daemon stops before a run's end, W&B shows the run as failed until a later daemon continues it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

import msgspec

from tracker_daemon.aggregation.shared.histograms import HistogramRow
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import Backend, Commit, RunDescription, RunStatus, SetAside, not_open
from tracker_daemon.backends.child.heartbeat import Heartbeat
from tracker_daemon.backends.decoding import RunEnd, read_state
from tracker_daemon.backends.wandb.artifacts import ArtifactQueue, KeptArtifacts
from tracker_daemon.backends.wandb.changes import Change, changes_of
from tracker_daemon.backends.wandb.init_arguments import Mode, known_handles, mode_of, wandb_id
from tracker_daemon.backends.wandb.items import NumberedItem, UnusableItem, sdk_value
from tracker_daemon.backends.wandb.metric_definitions import metrics_along, metrics_of
from tracker_daemon.backends.wandb.replay import replay
from tracker_daemon.backends.wandb.rows import NO_STEP, histogram_row, names_of_run, wandb_rows
from tracker_daemon.backends.wandb.session import WandbSession
from tracker_daemon.backends.wandb.session_directory import (
    RunDirectories,
    SessionDirectory,
    SessionStartNote,
)
from tracker_daemon.errors import BackendRefused, BackendUnavailable
from tracker_daemon.outbox.entries import OutboxEntry

END_REASON = "tracker/end_reason"


class _State(msgspec.Struct, frozen=True):
    wandb_id: str
    epoch: int
    attempt: int
    last_step: int = NO_STEP
    directory: str = ""
    exit_code: int | None = None
    location: str | None = None
    owners: dict[str, str] = {}
    """The metric of each name in W&B that two metrics could have."""


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
        self._names = names_of_run()

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Begin or continue the W&B run, unless it has ended; see :class:`Backend`."""
        self.close()
        self._run, self._mode, self._committed = run, mode_of(run), state
        self._state = read_state(state, _State, "W&B") or _State(wandb_id(run), run.epoch, run.attempt)
        self._names = names_of_run(self._state.owners)
        if run.attempt > self._state.attempt:
            self._state = msgspec.structs.replace(self._state, attempt=run.attempt, exit_code=None)
        self._handles = {**known_handles(run), "id": self._state.wandb_id, "mode": self._mode.value}
        if self._mode.remote and self._state.location:
            self._handles["url"] = self._state.location
        if self._mode is Mode.DISABLED:
            return
        _prepare_directory(run.outdir)
        with _translated_file_errors():
            SessionStartNote(run.outdir, run.run_id, self._state.wandb_id).mark_unmarked()
            for directory in self._directories(run).own():
                directory.end_writer()
            uncommitted = self._remove_unused(run)
            self._begun = state is not None or uncommitted > 0
            # Without new data an ended run is not begun again, and an offline log not repeated.
            if state is None or (self._mode.remote and self._state.exit_code is None):
                self._begin(run)

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Log ``entries``; return once they are on the disk, and at the run's end once they are uploaded."""
        if self._run is None:
            raise not_open("W&B")
        changes = list(changes_of(entries, self._run.contents))
        self._set_aside = []
        if self._mode is not Mode.DISABLED:
            with _translated_file_errors():
                self._record(self._run, changes, commit)
        self._committed = msgspec.msgpack.encode(self._state)
        return self._committed

    def set_aside(self) -> Sequence[SetAside]:
        """Return the items of the last delivery that the SDK refused; see :class:`Backend`."""
        return self._set_aside

    def trouble(self) -> str:
        """Return why the SDK still retries the upload of data on the disk; see :class:`Backend`."""
        return self._session.trouble() if self._session is not None else ""

    def close(self) -> None:
        """Release the run; one that has not ended can be continued by a later opening."""
        session, self._session = self._session, None
        self._caught_up = False
        self._artifacts.close()
        if session is not None:
            session.release()

    def location(self) -> str | None:
        """Return the run's URL, or offline its directory; None if nothing is recorded."""
        return self._state.location

    def handles(self) -> Mapping[str, str]:
        """Return the run's id, name and addresses, known from its beginning on."""
        return self._handles

    # ---- sessions ----

    def _begin(self, run: RunDescription) -> WandbSession:
        state = self._state
        session = WandbSession(run, self._mode, begun=self._begun, continues=state.directory)
        self._session, self._begun = session, True
        self._artifacts.close()
        self._artifacts = ArtifactQueue()
        self._caught_up = False
        self._handles = session.handles
        location = session.url or str(session.directory.path)
        self._state = msgspec.structs.replace(state, location=location)
        return session

    def _catch_up(self, run: RunDescription, session: WandbSession, commit: Commit) -> None:
        """Bring the new directory to the committed state, and commit that it now holds the run."""
        if self._caught_up:
            return
        state, committed = self._state, self._committed
        journal_lost_some = run.epoch > state.epoch
        last_step = state.last_step
        if state.directory and committed is not None and self._mode is not Mode.SHARED:
            old = SessionDirectory(Path(state.directory))
            last_step = replay(
                old.log(state.wandb_id), session, last_step,
                Heartbeat(commit, lambda: committed).beat, beyond_committed=journal_lost_some,
            )  # fmt: skip
        if committed is None or journal_lost_some:
            last_step = max(last_step, session.last_remote_step)
        for place in self._kept(run).places():
            # After a loss the journal may give the same number to another artifact.
            self._artifacts.put(place, known=not journal_lost_some)
        self._state = msgspec.structs.replace(
            state, epoch=run.epoch, last_step=last_step, directory=str(session.directory.path)
        )
        self._committed = msgspec.msgpack.encode(self._state)
        commit(self._committed)
        self._caught_up = True
        self._remove_unused(run)

    def _remove_unused(self, run: RunDescription) -> int:
        """Remove unused directories, unless one may hold the only copy of data; return their number."""
        if self._mode is Mode.SHARED or run.epoch > self._state.epoch:
            return 0
        current = self._session.directory if self._session is not None else None
        return self._directories(run).remove_unused(self._state.directory, current)

    def _directories(self, run: RunDescription) -> RunDirectories:
        return RunDirectories(run.outdir, run.run_id, self._state.wandb_id)

    def _kept(self, run: RunDescription) -> KeptArtifacts:
        return KeptArtifacts(run.outdir, self._state.wandb_id)

    # ---- changes ----

    def _record(self, run: RunDescription, changes: Sequence[Change], commit: Commit) -> None:
        session = self._session or self._begin(run)
        self._catch_up(run, session, commit)
        committed, kept = self._committed, self._kept(run)
        assert committed is not None
        heartbeat = Heartbeat(commit, lambda: committed)
        for change in changes:
            if isinstance(change, NumberedItem):
                self._log_item(session, change, kept, heartbeat)
            elif isinstance(change, (RecordBlock, HistogramRow)):
                self._log_rows(session, change, heartbeat)
            elif isinstance(change, RunEnd):
                self._note_end(session, change)
            else:
                session.configure(change)
        exit_code = self._state.exit_code
        self._log_artifacts(session, kept, heartbeat, wait=exit_code is not None)
        session.settle()
        if exit_code is not None:
            session.finish(exit_code)
            self._session = None
            if self._mode is Mode.ONLINE:
                kept.clear()

    def _log_rows(
        self, session: WandbSession, change: RecordBlock | HistogramRow, heartbeat: Heartbeat
    ) -> None:
        last_step = self._state.last_step
        if isinstance(change, RecordBlock):
            rows = wandb_rows(change, last_step, self._names.of)
        else:
            rows = iter((histogram_row(change, last_step, self._names.of),))
        session.define(metrics_of(change, self._names.of))
        for row in rows:
            last_step = row.step
            # A delivery before a crash may have brought the row to the server; W&B would drop it too.
            if row.step > session.last_remote_step:
                session.log(row)
            heartbeat.beat()
        self._state = msgspec.structs.replace(
            self._state, last_step=last_step, owners=dict(self._names.owners)
        )

    def _note_end(self, session: WandbSession, end: RunEnd) -> None:
        if end.reason:
            session.summarise({END_REASON: end.reason})
        exit_code = 1 if end.status is RunStatus.FAILED else 0
        self._state = msgspec.structs.replace(self._state, exit_code=exit_code)

    def _log_item(
        self, session: WandbSession, item: NumberedItem, kept: KeptArtifacts, heartbeat: Heartbeat
    ) -> None:
        if not item.is_artifact:
            self._log_media(session, item)
        elif kept.place(item.number) not in self._artifacts:
            with heartbeat.keep_beating():  # the files may have to be copied
                place = kept.keep(item)
            self._artifacts.put(place)
        heartbeat.beat()

    def _log_media(self, session: WandbSession, item: NumberedItem) -> None:
        try:
            with sdk_value(item) as value:
                if value is None:
                    return
                row = item.row(self._names.of(item.item.key), self._state.last_step, value)
                session.define(metrics_along({item.item.key: item.item.axis}, self._names.of))
                if row.step > session.last_remote_step:
                    session.log(row)
        except UnusableItem as error:
            self._set_aside.append(SetAside(item.number, 0, str(error)))
            return
        self._state = msgspec.structs.replace(
            self._state, last_step=row.step, owners=dict(self._names.owners)
        )

    def _log_artifacts(
        self, session: WandbSession, kept: KeptArtifacts, heartbeat: Heartbeat, *, wait: bool
    ) -> None:
        """Log the artifacts that are ready, or ``wait`` for all; set aside those that the SDK refuses."""
        queue = self._artifacts
        refused = (
            queue.log_all(session.log_artifact, heartbeat.beat)
            if wait
            else queue.log_ready(session.log_artifact)
        )
        for place, reason in refused:
            self._set_aside.append(SetAside(int(place.name), 0, reason))
            kept.drop(place)


@contextmanager
def _translated_file_errors() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise BackendUnavailable(
            f"W&B's files: {error.filename or ''} {error.strerror or error}; delivery tries again"
        ) from error


def _prepare_directory(outdir: Path) -> None:
    """Check that the directory can be written; otherwise the SDK would silently use a temporary directory."""
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

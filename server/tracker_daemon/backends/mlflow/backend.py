"""The MLflow backend: one MLflow run for each run, by explicit ids and never MLflow's current run.

The MLflow run carries the run's id as a tag, and is looked for by it before one is created, so that a crash
between creating it and committing its id makes no second one. The state is the MLflow run's id, which metrics
stand beside aggregates, how the run stands, and the last entry that is stored whole.

Points are given the timestamps of their records, and SQL stores keep points that are equal in key,
value, timestamp and step once: whatever is delivered again after a crash is there once. Other stores (a
hosted service's own) may keep it twice; the entry in progress is the most that this can concern.
A NaN stays one, an infinity becomes the largest number of its sign, as MLflow has it.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar

from tracker_daemon.aggregation.shared.record import RecordBlock
from tracker_daemon.backends.base import Backend, Commit, RunDescription, SetAside
from tracker_daemon.backends.decoding import read_block, read_state
from tracker_daemon.backends.mlflow.connection import MlflowConnection, StoreAddress
from tracker_daemon.backends.mlflow.description import system_params
from tracker_daemon.backends.mlflow.metric_display import MetricDisplay
from tracker_daemon.backends.mlflow.names import flatten, mlflow_key, text_key
from tracker_daemon.backends.mlflow.requests import metrics_of, summary_metrics
from tracker_daemon.backends.mlflow.run_lookup import begun_run, resumed_run
from tracker_daemon.backends.mlflow.run_writer import MlflowState, RunWriter
from tracker_daemon.errors import BackendRefused, BackendUnavailable, PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_daemon.rules.metric_rules import MetricSettings
from tracker_protocol import limits

if TYPE_CHECKING:
    from mlflow.entities import Run

CONFIG_PREFIX = "config"

_REASON_TAG = "tracker.end_reason"


class MlflowBackend(Backend):
    """Writes a run's records, configuration and end to an MLflow tracking store.

    The store is ``MLFLOW_TRACKING_URI``, else a SQLite database in the run's output directory. ``environ`` is
    the process's own by default; MLflow itself reads most of it from there.
    """

    name: ClassVar[str] = "mlflow"

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._run: RunWriter | None = None
        self._display = MetricDisplay(MetricSettings())
        self._sign_of_life_at = 0.0

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Find the MLflow run, or create it; see :class:`Backend`."""
        known = read_state(state, MlflowState, "MLflow")
        self._display = MetricDisplay(run.metrics)
        connection = MlflowConnection(StoreAddress.of(self._environ, run.outdir), self._environ)
        try:
            self._run = _opened_run(connection, run, known)
            self._describe(run)
        except PoisonEntry as error:  # nothing of the outbox is to blame
            raise BackendRefused(f"{connection.address.shown} refuses to open the run: {error}") from error

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Store ``entries`` in order; see :class:`Backend`."""
        run = self._opened()
        self._sign_of_life_at = time.monotonic()
        run.set_aside = [one for one in run.set_aside if entries and one.entry >= entries[0].number]
        for entry in entries:
            if entry.number <= run.through:
                continue
            try:
                self._deliver(entry, commit)
            except PoisonEntry:
                run.examine()
                raise
            run.through = entry.number
            run.note_refused(entry.number)
        return run.state

    def set_aside(self) -> Sequence[SetAside]:
        """What the store refused of the last delivery; see :class:`Backend`."""
        return tuple(self._opened().set_aside)

    def close(self) -> None:
        """Let go of the connection; the run itself stays as it is."""
        self._run = None

    def location(self) -> str | None:
        """The run's page on the server, or the database's file."""
        run = self._run
        return run.connection.address.run_location(run.experiment_id, run.mlflow_run_id) if run else None

    def handles(self) -> Mapping[str, str]:
        """The run's ids and addresses."""
        return self._run.handles if self._run is not None else {}

    @property
    def mlflow_run_id(self) -> str:
        """The id of the MLflow run."""
        return self._opened().mlflow_run_id

    @property
    def experiment_id(self) -> str:
        """The id of its experiment."""
        return self._opened().experiment_id

    def look_up(self) -> Run:
        """MLflow's own description of the run, as it is now; raises as :meth:`open` does."""
        run = self._opened()
        return run.connection.call(lambda client: client.get_run(run.mlflow_run_id))

    def reopen(self) -> None:
        """Have a run that had ended go on; raises as :meth:`open` does."""
        self._opened().set_status("RUNNING")

    @property
    def run_url(self) -> str | None:
        """The run's page on the server; None for a local store."""
        return self.location() if self._opened().connection.address.is_http else None

    # ---- entries ----

    def _deliver(self, entry: OutboxEntry, commit: Commit) -> None:
        if entry.kind is EntryKind.RECORDS:
            self._store_block(read_block(entry), commit)
        elif entry.kind is EntryKind.CONFIG:
            self._opened().store_params(dict(flatten(_document(entry), CONFIG_PREFIX)))
        elif entry.kind is EntryKind.END:
            self._end(_document(entry))

    def _store_block(self, block: RecordBlock, commit: Commit) -> None:
        run = self._opened()
        if run.ended and block.attempt > run.attempt:
            run.set_status("RUNNING")
            run.ended = False
        run.attempt = max(run.attempt, block.attempt)
        keys = run.names.of(block.columns)
        # Before the first request: a key that stands for another name is explained wherever it is seen.
        named = zip(block.columns, keys, strict=True)
        run.explain((name, key) for name, key in named if key not in {name, f"{name}/local"})
        for metrics in metrics_of(block, keys, self._display.steps(block)):
            run.log("metrics", metrics, lambda: self._show_life(commit))
            self._show_life(commit)
        texts = {cell.column: cell.value for cell in block.texts}
        run.explain((name, text_key(name)) for name in texts if text_key(name) != name)
        run.set_tags({text_key(name): value for name, value in texts.items()})
        run.summaries = self._display.summarised(block, run.summaries)

    def _end(self, document: Mapping[str, Any]) -> None:
        run = self._opened()
        self._store_summaries(run)
        if document.get("reason"):
            run.set_tags({_REASON_TAG: str(document["reason"])})
        run.set_status(str(document.get("status", "FINISHED")))
        run.ended = True

    def _store_summaries(self, run: RunWriter) -> None:
        named = [(name, mlflow_key(name), so_far) for name, so_far in self._display.named(run.summaries)]
        run.explain((name, key) for name, key, _ in named if key != name)
        for metrics in summary_metrics((key, so_far) for _, key, so_far in named):
            run.log("metrics", metrics)

    # ---- what entries are made of ----

    def _describe(self, run: RunDescription) -> None:
        """Store the system params that are not there yet; a later attempt's change nothing."""
        opened, params = self._opened(), system_params(run, datetime.now(timezone.utc))
        opened.store_params({name: value for name, value in params.items() if name not in opened.params})

    def _show_life(self, commit: Commit) -> None:
        if time.monotonic() - self._sign_of_life_at >= limits.CHILD_HEARTBEAT_S:
            commit(self._opened().state)
            self._sign_of_life_at = time.monotonic()

    def _opened(self) -> RunWriter:
        if self._run is None:
            raise BackendUnavailable("the MLflow backend is not open; open it with the last committed state")
        return self._run


def _opened_run(connection: MlflowConnection, run: RunDescription, known: MlflowState | None) -> RunWriter:
    if known is None:
        return RunWriter.of(connection, begun_run(connection, run), None)
    return RunWriter.of(connection, resumed_run(connection, run, known.mlflow_run_id, known.store), known)


# ---- entries as they come ------------------------------------------------------------------------


def _document(entry: OutboxEntry) -> dict[str, Any]:
    try:
        document = json.loads(entry.payload)
    except ValueError as error:
        raise PoisonEntry(f"outbox entry {entry.number} holds no JSON: {error}") from error
    if not isinstance(document, dict):
        raise PoisonEntry(f"outbox entry {entry.number} holds no JSON object")
    return document

"""The MLflow backend: one MLflow run for each run, by explicit ids and never by MLflow's current run.

The MLflow run has the run's id as a tag. The backend searches for that tag before it creates a run.
So a crash between the creation and the commit of the new id makes no second MLflow run.

The state holds the MLflow run's id, the metrics that have aggregates, the run's status, and the last entry
that is stored completely.

A point has the timestamp of its record. SQL stores keep points once that are equal in key, value, timestamp
and step, so a repeated delivery adds no point. Other stores (a hosted service's own) may keep a point
twice; at most the entry in progress is affected. MLflow keeps a NaN, and turns an infinity into the largest
number of its sign.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from datetime import datetime, timezone
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import Backend, Commit, RunDescription, SetAside, not_open
from tracker_daemon.backends.child.heartbeat import Heartbeat
from tracker_daemon.backends.decoding import RunEnd, read_block, read_config, read_end, read_state
from tracker_daemon.backends.mlflow.connection import MlflowConnection
from tracker_daemon.backends.mlflow.description import system_params
from tracker_daemon.backends.mlflow.metric_display import named, other_steps, summarised
from tracker_daemon.backends.mlflow.names import MetricKeys, Param, mlflow_key, number_in, params_of, text_key
from tracker_daemon.backends.mlflow.requests import metric_requests, summary_requests, text_requests
from tracker_daemon.backends.mlflow.run_lookup import find_or_create_run, resume_run
from tracker_daemon.backends.mlflow.run_writer import MlflowState, RunWriter
from tracker_daemon.backends.mlflow.store_address import StoreAddress
from tracker_daemon.errors import BackendRefused, PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

if TYPE_CHECKING:
    from mlflow.entities import Run

CONFIG_PREFIX = "config"

_REASON_TAG = "tracker.end_reason"
_KILLED = "KILLED"
"""MLflow's status of a run that the user stopped."""


class MlflowBackend(Backend):
    """Writes a run's records, configuration and end to an MLflow tracking store.

    The store is ``MLFLOW_TRACKING_URI``, else a SQLite database in the run's output directory. ``environ``
    defaults to the process's environment, from which MLflow itself reads most of its settings.
    """

    name: ClassVar[str] = "mlflow"

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._run: RunWriter | None = None

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Find the MLflow run, or create it; see :class:`Backend`."""
        known = read_state(state, MlflowState, "MLflow")
        connection = MlflowConnection(StoreAddress.of(self._environ, run.outdir), self._environ)
        try:
            self._run = _opened_run(connection, run, known)
            self._describe(run)
        except PoisonEntry as error:  # no entry of the outbox is the cause
            raise BackendRefused(f"{connection.address.shown} refuses to open the run: {error}") from error

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Store ``entries`` in order; see :class:`Backend`."""
        run = self._opened()
        heartbeat = Heartbeat(commit, lambda: run.state)
        run.set_aside = [one for one in run.set_aside if entries and one.entry >= entries[0].number]
        for entry in entries:
            if entry.number <= run.through:
                continue
            try:
                self._store(run, entry, heartbeat)
            except PoisonEntry:
                run.check_writable()
                raise
            run.through = entry.number
            run.set_aside_refused(entry.number)
        return run.state

    def set_aside(self) -> Sequence[SetAside]:
        """Return the parts of the last delivery that the store refused; see :class:`Backend`."""
        return tuple(self._opened().set_aside)

    def close(self) -> None:
        """Drop the connection; the MLflow run keeps its status."""
        self._run = None

    def location(self) -> str | None:
        """Return the run's page on the server, or the path of the database."""
        run = self._run
        return run.connection.address.run_location(run.experiment_id, run.mlflow_run_id) if run else None

    def handles(self) -> Mapping[str, str]:
        """Return the run's ids and addresses."""
        return self._run.handles if self._run is not None else {}

    @property
    def mlflow_run_id(self) -> str:
        """The id of the MLflow run."""
        return self._opened().mlflow_run_id

    @property
    def experiment_id(self) -> str:
        """The id of the MLflow run's experiment."""
        return self._opened().experiment_id

    def look_up(self) -> Run:
        """Fetch MLflow's own description of the run; raises as :meth:`open` does."""
        run = self._opened()
        return run.connection.call(lambda client: client.get_run(run.mlflow_run_id))

    def reopen(self) -> None:
        """Set an ended run's status to RUNNING; raises as :meth:`open` does."""
        self._opened().set_status("RUNNING")

    @property
    def run_url(self) -> str | None:
        """The run's page on the server; None for a local store."""
        return self.location() if self._opened().connection.address.is_http else None

    # ---- entries ----

    def _store(self, run: RunWriter, entry: OutboxEntry, heartbeat: Heartbeat) -> None:
        if entry.kind is EntryKind.RECORDS:
            self._store_block(run, read_block(entry), heartbeat)
        elif entry.kind is EntryKind.CONFIG:
            run.store_params(params_of(read_config(entry), CONFIG_PREFIX))
        elif entry.kind is EntryKind.LATER_CONFIG:
            run.store_params(params_of(read_config(entry)))
        elif entry.kind is EntryKind.END:
            self._end(run, read_end(entry))

    def _store_block(self, run: RunWriter, block: RecordBlock, heartbeat: Heartbeat) -> None:
        if run.ended and block.attempt > run.attempt:
            run.set_status("RUNNING")
            run.ended = False
        run.attempt = max(run.attempt, block.attempt)
        numbers = [cell for cell in block.texts if number_in(cell.value) is not None]
        names = tuple(dict.fromkeys((*block.columns, *(cell.column for cell in numbers))))
        keys = dict(zip(names, run.names.of(names), strict=True))
        # Before the first request: wherever a replacement key is seen, its tag must exist.
        run.tag_renamed((name, key) for name, key in keys.items() if key not in {name, f"{name}/local"})
        along = other_steps(block)
        by_position = {at: along[name] for at, name in enumerate(block.columns) if name in along}
        for metrics in chain(
            metric_requests(block, [keys[name] for name in block.columns], by_position),
            text_requests(block, numbers, keys, along),
        ):
            run.log("metrics", metrics, heartbeat.beat)
            heartbeat.beat()
        texts = {cell.column: cell.value for cell in block.texts if number_in(cell.value) is None}
        run.tag_renamed((name, text_key(name)) for name in texts if text_key(name) != name)
        run.set_tags({text_key(name): value for name, value in texts.items()})
        run.summaries = summarised(block, run.summaries)

    def _end(self, run: RunWriter, end: RunEnd) -> None:
        self._store_summaries(run)
        if end.reason:
            run.set_tags({_REASON_TAG: end.reason})
        run.set_status(_KILLED if end.interrupted else end.status.value)
        run.ended = True

    def _store_summaries(self, run: RunWriter) -> None:
        keyed = [(name, mlflow_key(name), summary) for name, summary in named(run.summaries)]
        run.tag_renamed((name, key) for name, key, _ in keyed if key != name)
        for metrics in summary_requests((key, summary) for _, key, summary in keyed):
            run.log("metrics", metrics)

    def _describe(self, run: RunDescription) -> None:
        """Store the system params that the run does not have yet; a later attempt changes none."""
        opened, params = self._opened(), system_params(run, datetime.now(timezone.utc))
        opened.store_params([Param(*param) for param in params.items() if param[0] not in opened.params])

    def _opened(self) -> RunWriter:
        if self._run is None:
            raise not_open("MLflow")
        return self._run


def _opened_run(connection: MlflowConnection, run: RunDescription, known: MlflowState | None) -> RunWriter:
    own_name = run.options.get("own_name", run.mlflow_own_name)
    names = MetricKeys(local=own_name == "local" or connection.address.is_file_store)
    if known is None:
        return RunWriter.of(connection, find_or_create_run(connection, run), None, names)
    found = resume_run(connection, run, known.mlflow_run_id, known.store)
    return RunWriter.of(connection, found, known, names)

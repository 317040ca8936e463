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
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, ClassVar

import msgspec

from tracker_daemon.aggregation.record import RecordBlock
from tracker_daemon.backends.base import Backend, Commit, EntryKind, OutboxEntry, RunDescription
from tracker_daemon.backends.decoding import read_block, read_state
from tracker_daemon.backends.mlflow_connection import MlflowConnection, StoreAddress
from tracker_daemon.backends.mlflow_description import system_params
from tracker_daemon.backends.mlflow_find import begun_run, check_active, resumed_run
from tracker_daemon.backends.mlflow_names import MetricKeys, flatten, mlflow_key, text_key
from tracker_daemon.backends.mlflow_requests import (
    metrics_of,
    pairs,
    param_value,
    tag_key,
    tag_value,
    whole_value_tags,
)
from tracker_daemon.errors import BackendRefused, BackendUnavailable, PoisonEntry
from tracker_protocol import limits

if TYPE_CHECKING:
    from mlflow.entities import Param, Run, RunTag

CONFIG_PREFIX = "config"

_CHANGED = "tracker.changed"
_RENAMED = "tracker.renamed"
_REASON_TAG = "tracker.end_reason"


class _State(msgspec.Struct, frozen=True):
    store: str
    experiment_id: str
    mlflow_run_id: str
    through: int
    """The last entry that is stored whole."""
    attempt: int
    ended: bool
    aggregated: bytes


@dataclass(slots=True)
class _OpenRun:
    """A run of the store, and what is known of it."""

    connection: MlflowConnection
    experiment_id: str
    mlflow_run_id: str
    names: MetricKeys
    params: dict[str, str]
    tags: dict[str, str]
    through: int = 0
    attempt: int = 1
    ended: bool = False
    packed: tuple[int, bytes] = (-1, b"")
    """How many names were aggregated when they were last packed, and they packed."""

    @staticmethod
    def of(connection: MlflowConnection, found: Run, names: MetricKeys) -> _OpenRun:
        """``found`` as the store has it."""
        info, data = found.info, found.data
        return _OpenRun(
            connection, info.experiment_id, info.run_id, names, dict(data.params), dict(data.tags)
        )

    def log(self, **items: Any) -> None:
        """Store metrics, params or tags, in one request."""
        self.connection.call(lambda client: client.log_batch(self.mlflow_run_id, **items))


class MlflowBackend(Backend):
    """Writes a run's records, configuration and end to an MLflow tracking store.

    The store is ``MLFLOW_TRACKING_URI``, else a SQLite database in the run's output directory. ``environ`` is
    the process's own by default; MLflow itself reads most of it from there.
    """

    name: ClassVar[str] = "mlflow"

    def __init__(self, environ: Mapping[str, str] | None = None) -> None:
        self._environ = os.environ if environ is None else environ
        self._run: _OpenRun | None = None
        self._sign_of_life_at = 0.0

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Find the MLflow run, or create it; see :class:`Backend`."""
        known = read_state(state, _State, "MLflow")
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
        for entry in entries:
            if entry.number <= run.through:
                continue
            try:
                self._deliver(entry, commit)
            except PoisonEntry:
                self._refuse_if_inactive()
                raise
            run.through = entry.number
        return self._state()

    def close(self) -> None:
        """Let go of the connection; the run itself stays as it is."""
        self._run = None

    def location(self) -> str | None:
        """The run's page on the server, or the database's file."""
        run = self._run
        return run.connection.address.run_location(run.experiment_id, run.mlflow_run_id) if run else None

    @property
    def mlflow_run_id(self) -> str:
        """The id of the MLflow run."""
        return self._opened().mlflow_run_id

    @property
    def experiment_id(self) -> str:
        """The id of its experiment."""
        return self._opened().experiment_id

    # ---- entries ----

    def _deliver(self, entry: OutboxEntry, commit: Commit) -> None:
        if entry.kind is EntryKind.RECORDS:
            self._store_block(read_block(entry), commit)
        elif entry.kind is EntryKind.CONFIG:
            self._store_params(dict(flatten(_document(entry), CONFIG_PREFIX)))
        else:
            self._end(_document(entry))

    def _store_block(self, block: RecordBlock, commit: Commit) -> None:
        run = self._opened()
        if run.ended and block.attempt > run.attempt:
            self._set_status("RUNNING")
            run.ended = False
        run.attempt = max(run.attempt, block.attempt)
        keys = run.names.of(block.columns)
        # Before the first request: a key that stands for another name is explained wherever it is seen.
        named = zip(block.columns, keys, strict=True)
        self._explain((name, key) for name, key in named if key not in {name, f"{name}/local"})
        for metrics in metrics_of(block, keys):
            run.log(metrics=metrics)
            self._show_life(commit)
        texts = {cell.column: cell.value for cell in block.texts}
        self._explain((name, text_key(name)) for name in texts if text_key(name) != name)
        self._set_tags({text_key(name): value for name, value in texts.items()})

    def _store_params(self, wanted: Mapping[str, str]) -> None:
        """Add the params that are new; MLflow changes none, so a changed one's value becomes a tag."""
        run = self._opened()
        by_key = {mlflow_key(name): value for name, value in wanted.items()}
        self._explain((name, mlflow_key(name)) for name in wanted if mlflow_key(name) != name)
        new = {key: value for key, value in by_key.items() if key not in run.params}
        tags = {
            tag_key(_CHANGED, key): value
            for key, value in by_key.items()
            if key not in new
            and (run.params[key] != param_value(value) or tag_key(_CHANGED, key) in run.tags)
        }
        for key, value in by_key.items():
            tags.update(whole_value_tags(key, value))
        self._set_tags(tags)
        for params in pairs(((key, param_value(value)) for key, value in new.items()), _param):
            run.log(params=params)
            run.params.update({param.key: param.value for param in params})

    def _end(self, document: Mapping[str, Any]) -> None:
        run = self._opened()
        if document.get("reason"):
            self._set_tags({_REASON_TAG: str(document["reason"])})
        self._set_status(str(document.get("status", "FINISHED")))
        run.ended = True

    # ---- what entries are made of ----

    def _describe(self, run: RunDescription) -> None:
        """Store the system params that are not there yet; a later attempt's change nothing."""
        params = system_params(run, datetime.now(timezone.utc))
        self._store_params(
            {name: value for name, value in params.items() if name not in self._opened().params}
        )

    def _explain(self, renamed: Iterable[tuple[str, str]]) -> None:
        """Tag the run with the names that keys stand for."""
        self._set_tags({tag_key(_RENAMED, key): name for name, key in renamed})

    def _set_tags(self, tags: Mapping[str, str]) -> None:
        run = self._opened()
        cut = {key: tag_value(value) for key, value in tags.items()}
        wanted = ((key, value) for key, value in cut.items() if run.tags.get(key) != value)
        for piece in pairs(wanted, _tag):
            run.log(tags=piece)
            run.tags.update({tag.key: tag.value for tag in piece})

    def _set_status(self, status: str) -> None:
        run = self._opened()
        mlflow_run_id = run.mlflow_run_id
        if status == "RUNNING":
            run.connection.call(lambda client: client.update_run(mlflow_run_id, status=status))
        else:
            run.connection.call(lambda client: client.set_terminated(mlflow_run_id, status=status))

    def _show_life(self, commit: Commit) -> None:
        if time.monotonic() - self._sign_of_life_at >= limits.CHILD_SIGN_OF_LIFE_S:
            commit(self._state())
            self._sign_of_life_at = time.monotonic()

    def _refuse_if_inactive(self) -> None:
        """MLflow calls what is written to a deleted run invalid, and it is not the entry that is."""
        run = self._opened()
        found = run.connection.call(lambda client: client.get_run(run.mlflow_run_id))
        check_active(found, run.connection)

    def _opened(self) -> _OpenRun:
        if self._run is None:
            raise BackendUnavailable("the MLflow backend is not open; open it with the last committed state")
        return self._run

    def _state(self) -> bytes:
        run = self._opened()
        count = len(run.names.aggregated)
        if run.packed[0] != count:  # the set only grows
            run.packed = count, zlib.compress(msgspec.msgpack.encode(sorted(run.names.aggregated)), 1)
        return msgspec.msgpack.encode(
            _State(
                run.connection.address.shown, run.experiment_id, run.mlflow_run_id,
                run.through, run.attempt, run.ended, run.packed[1],
            )
        )  # fmt: skip


def _opened_run(connection: MlflowConnection, run: RunDescription, known: _State | None) -> _OpenRun:
    if known is None:
        return _OpenRun.of(connection, begun_run(connection, run), MetricKeys())
    found = resumed_run(connection, run, known.mlflow_run_id, known.store)
    names = MetricKeys(msgspec.msgpack.decode(zlib.decompress(known.aggregated), type=list[str]))
    opened = _OpenRun.of(connection, found, names)
    opened.through, opened.attempt, opened.ended = known.through, known.attempt, known.ended
    return opened


# ---- entries as they come ------------------------------------------------------------------------


def _document(entry: OutboxEntry) -> dict[str, Any]:
    try:
        document = json.loads(entry.payload)
    except ValueError as error:
        raise PoisonEntry(f"outbox entry {entry.number} holds no JSON: {error}") from error
    if not isinstance(document, dict):
        raise PoisonEntry(f"outbox entry {entry.number} holds no JSON object")
    return document


def _param(key: str, value: str) -> Param:
    from mlflow.entities import Param  # noqa: PLC0415  # the package is optional

    return Param(key, value)


def _tag(key: str, value: str) -> RunTag:
    from mlflow.entities import RunTag  # noqa: PLC0415  # the package is optional

    return RunTag(key, value)

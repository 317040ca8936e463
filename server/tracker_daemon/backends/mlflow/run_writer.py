"""The writer of one MLflow run: stores metrics, params, tags and the status."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from tracker_daemon.backends.base import SetAside
from tracker_daemon.backends.mlflow.bisection import RefusedItem, store_bisected
from tracker_daemon.backends.mlflow.connection import MlflowConnection
from tracker_daemon.backends.mlflow.description import RUN_UID_TAG
from tracker_daemon.backends.mlflow.metric_display import RunningSummary
from tracker_daemon.backends.mlflow.names import MetricKeys, mlflow_key
from tracker_daemon.backends.mlflow.names import Param as NamedParam
from tracker_daemon.backends.mlflow.requests import (
    pair_requests,
    param_value,
    tag_key,
    tag_value,
    whole_value_tags,
)
from tracker_daemon.backends.mlflow.run_lookup import check_active
from tracker_daemon.errors import BackendRefused, PoisonEntry
from tracker_daemon.settings.credentials import without_user_information

if TYPE_CHECKING:
    from mlflow.entities import Param, Run, RunInfo, RunTag

_CHANGED = "tracker.changed"
_RENAMED = "tracker.renamed"
_KEYS_SHOWN_MAX = 5


class MlflowState(msgspec.Struct, frozen=True):
    """The state that the MLflow backend commits."""

    store: str
    experiment_id: str
    mlflow_run_id: str
    through: int
    """The number of the last entry that is stored completely."""
    attempt: int
    ended: bool
    aggregated: bytes
    """The names of the metrics that have aggregates, packed."""
    set_aside: tuple[SetAside, ...] = ()
    """The refused parts of the last delivery, which may be repeated."""
    summaries: dict[str, RunningSummary] = {}
    own_is_local: bool = False
    """True if own values of metrics with aggregates are at ``<metric>/local``, for the run's life."""


@dataclass(slots=True)
class RunWriter:
    """One MLflow run, the parts of it that are known to be stored, and the progress of its delivery."""

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
    """The number of names with aggregates when they were last packed, and the packed names."""
    refused: list[RefusedItem] = field(default_factory=list)
    """The items of the entry in progress that the store has refused."""
    set_aside: list[SetAside] = field(default_factory=list)
    handles: Mapping[str, str] = field(default_factory=dict)
    """The names by which scripts find the run."""
    summaries: dict[str, RunningSummary] = field(default_factory=dict)

    @staticmethod
    def of(
        connection: MlflowConnection, found: Run, known: MlflowState | None, names: MetricKeys
    ) -> RunWriter:
        """Return the writer of ``found``, with the progress of the last committed state ``known``.

        ``names`` are the keys of a run without such a state.
        """
        info, data = found.info, found.data
        params, tags = dict(data.params), dict(data.tags)
        run = RunWriter(connection, info.experiment_id, info.run_id, names, params, tags)
        run.handles = _handles(connection, info)
        if known is None:
            return run
        aggregated = msgspec.msgpack.decode(zlib.decompress(known.aggregated), type=list[str])
        run.names = MetricKeys(aggregated, local=known.own_is_local)
        run.through, run.attempt, run.ended = known.through, known.attempt, known.ended
        run.set_aside = list(known.set_aside)
        run.summaries = known.summaries
        return run

    @property
    def state(self) -> bytes:
        """The state to commit now."""
        count = len(self.names.aggregated)
        if self.packed[0] != count:  # the set only grows
            self.packed = count, zlib.compress(msgspec.msgpack.encode(sorted(self.names.aggregated)), 1)
        return msgspec.msgpack.encode(
            MlflowState(
                self.connection.address.shown, self.experiment_id, self.mlflow_run_id,
                self.through, self.attempt, self.ended, self.packed[1], tuple(self.set_aside),
                self.summaries, self.names.local,
            )
        )  # fmt: skip

    # ---- storing ----

    def log(self, kind: str, items: Sequence[Any], beat: Callable[[], None] = lambda: None) -> None:
        """Store items of one kind (metrics, params or tags), in one request if the store accepts all.

        Refused items are left out, and reported by :meth:`set_aside_refused`. ``beat`` is called between
        requests.
        """

        def send(items: Sequence[Any]) -> None:
            self.connection.call(lambda client: client.log_batch(self.mlflow_run_id, **{kind: items}))

        self.refused += store_bisected(items, send, self.check_writable, beat)

    def set_tags(self, wanted: Mapping[str, str]) -> None:
        """Set the tags that do not have their value yet; long values are shortened."""
        short = {key: tag_value(value) for key, value in wanted.items()}
        new = ((key, value) for key, value in short.items() if self.tags.get(key) != value)
        for tags in pair_requests(new, _tag):
            self.log("tags", tags)
            self.tags.update({tag.key: tag.value for tag in tags})

    def tag_renamed(self, renamed: Iterable[tuple[str, str]]) -> None:
        """Tag the run with the original names, given as (name, key), of keys that replace them."""
        self.set_tags({tag_key(_RENAMED, key): name for name, key in renamed})

    def store_params(self, wanted: Sequence[NamedParam]) -> None:
        """Add new params. MLflow never changes a param, so the value of a changed one becomes a tag."""
        by_key = {mlflow_key(param.name): param.value for param in wanted}
        self.tag_renamed(
            (param.path or param.name, mlflow_key(param.name))
            for param in wanted
            if param.path or mlflow_key(param.name) != param.name
        )
        new = {key: value for key, value in by_key.items() if key not in self.params}
        tags = {
            tag_key(_CHANGED, key): value
            for key, value in by_key.items()
            if key not in new
            and (self.params[key] != param_value(value) or tag_key(_CHANGED, key) in self.tags)
        }
        for key, value in by_key.items():
            tags.update(whole_value_tags(key, value))
        self.set_tags(tags)
        for params in pair_requests(((key, param_value(value)) for key, value in new.items()), _param):
            self.log("params", params)
            self.params.update({param.key: param.value for param in params})

    def set_status(self, status: str) -> None:
        """Set the run's status: RUNNING, FINISHED, FAILED or KILLED."""
        if status == "RUNNING":
            self.connection.call(lambda client: client.update_run(self.mlflow_run_id, status=status))
        else:
            self.connection.call(lambda client: client.set_terminated(self.mlflow_run_id, status=status))

    # ---- refusals ----

    def check_writable(self) -> None:
        """Raise BackendRefused if the run accepts no write at all; no item is then the cause of a refusal."""
        with self._refused_as_a_whole():
            found = self.connection.call(lambda client: client.get_run(self.mlflow_run_id))
            check_active(found, self.connection)
            uid = found.data.tags.get(RUN_UID_TAG, "")
            self.connection.call(lambda client: client.set_tag(self.mlflow_run_id, RUN_UID_TAG, uid))

    @contextmanager
    def _refused_as_a_whole(self) -> Iterator[None]:
        try:
            yield
        except PoisonEntry as error:
            raise BackendRefused(
                f"the MLflow run {self.mlflow_run_id} refuses every write, even of a tag that it has: {error}"
            ) from error

    def set_aside_refused(self, entry: int) -> None:
        """Set aside the refused items of an entry whose other items are stored."""
        refused, self.refused = self.refused, []
        if not refused:
            return
        # All cells of a record have its step and its timestamp.
        metrics = (one.item for one in refused if hasattr(one.item, "timestamp"))
        records = {(metric.step, metric.timestamp) for metric in metrics}
        keys = sorted({str(one.item.key) for one in refused})
        shown = ", ".join(repr(key) for key in keys[:_KEYS_SHOWN_MAX])
        more = f" and {len(keys) - _KEYS_SHOWN_MAX} more" if len(keys) > _KEYS_SHOWN_MAX else ""
        reason = f"{len(refused)} of {shown}{more}: {refused[0].reason}"
        self.set_aside.append(SetAside(entry, len(records), reason))


def _param(key: str, value: str) -> Param:
    from mlflow.entities import Param  # noqa: PLC0415  # the package is optional

    return Param(key, value)


def _tag(key: str, value: str) -> RunTag:
    from mlflow.entities import RunTag  # noqa: PLC0415  # the package is optional

    return RunTag(key, value)


def _handles(connection: MlflowConnection, info: RunInfo) -> dict[str, str]:
    address = connection.address
    found = {
        "run_id": info.run_id,
        "experiment_id": info.experiment_id,
        "experiment_name": connection.call(lambda client: client.get_experiment(info.experiment_id)).name,
        "run_name": info.run_name,
        "artifact_uri": without_user_information(info.artifact_uri or ""),
        "tracking_uri": address.shown,
        "run_url": address.run_location(info.experiment_id, info.run_id) if address.is_http else "",
    }
    return {name: str(value) for name, value in found.items() if value}

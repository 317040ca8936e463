"""A run of an MLflow store: what is known of it, and how metrics, params and tags get into it."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import msgspec

from tracker_daemon.backends.base import SetAside
from tracker_daemon.backends.mlflow.bisection import RefusedItem, store_narrowed
from tracker_daemon.backends.mlflow.connection import MlflowConnection
from tracker_daemon.backends.mlflow.description import RUN_UID_TAG
from tracker_daemon.backends.mlflow.metric_display import RunningSummary
from tracker_daemon.backends.mlflow.names import MetricKeys, mlflow_key
from tracker_daemon.backends.mlflow.requests import (
    pairs,
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
    """What the MLflow backend commits."""

    store: str
    experiment_id: str
    mlflow_run_id: str
    through: int
    """The last entry that is stored whole."""
    attempt: int
    ended: bool
    aggregated: bytes
    set_aside: tuple[SetAside, ...] = ()
    """Of the entries since the one that the cursor may still be at."""
    summaries: dict[str, RunningSummary] = {}


@dataclass(slots=True)
class RunWriter:
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
    refused: list[RefusedItem] = field(default_factory=list)
    """What the store has refused of the entry in progress."""
    set_aside: list[SetAside] = field(default_factory=list)
    handles: Mapping[str, str] = field(default_factory=dict)
    """How scripts find it."""
    summaries: dict[str, RunningSummary] = field(default_factory=dict)

    @staticmethod
    def of(connection: MlflowConnection, found: Run, known: MlflowState | None) -> RunWriter:
        """``found`` as the store has it, and where the last committed state ``known`` says it stands."""
        info, data = found.info, found.data
        params, tags = dict(data.params), dict(data.tags)
        run = RunWriter(connection, info.experiment_id, info.run_id, MetricKeys(), params, tags)
        run.handles = _handles(connection, info)
        if known is None:
            return run
        run.names = MetricKeys(msgspec.msgpack.decode(zlib.decompress(known.aggregated), type=list[str]))
        run.through, run.attempt, run.ended = known.through, known.attempt, known.ended
        run.set_aside = list(known.set_aside)
        run.summaries = known.summaries
        return run

    @property
    def state(self) -> bytes:
        """What to commit, as things stand."""
        count = len(self.names.aggregated)
        if self.packed[0] != count:  # the set only grows
            self.packed = count, zlib.compress(msgspec.msgpack.encode(sorted(self.names.aggregated)), 1)
        return msgspec.msgpack.encode(
            MlflowState(
                self.connection.address.shown, self.experiment_id, self.mlflow_run_id,
                self.through, self.attempt, self.ended, self.packed[1], tuple(self.set_aside),
                self.summaries,
            )
        )  # fmt: skip

    # ---- storing ----

    def log(self, kind: str, items: Sequence[Any], alive: Callable[[], None] = lambda: None) -> None:
        """Store items of one kind (metrics, params or tags), in one request if the store takes them all.

        What it does not take is left out, and told by :meth:`note_refused`.
        """

        def send(items: Sequence[Any]) -> None:
            self.connection.call(lambda client: client.log_batch(self.mlflow_run_id, **{kind: items}))

        self.refused += store_narrowed(items, send, self.examine, alive)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Set the tags that are not so already, cut where they are too long."""
        cut = {key: tag_value(value) for key, value in tags.items()}
        wanted = ((key, value) for key, value in cut.items() if self.tags.get(key) != value)
        for piece in pairs(wanted, _tag):
            self.log("tags", piece)
            self.tags.update({tag.key: tag.value for tag in piece})

    def explain(self, renamed: Iterable[tuple[str, str]]) -> None:
        """Tag the run with the names that keys stand for."""
        self.set_tags({tag_key(_RENAMED, key): name for name, key in renamed})

    def store_params(self, wanted: Mapping[str, str]) -> None:
        """Add the params that are new; MLflow changes none, so a changed one's value becomes a tag."""
        by_key = {mlflow_key(name): value for name, value in wanted.items()}
        self.explain((name, mlflow_key(name)) for name in wanted if mlflow_key(name) != name)
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
        for params in pairs(((key, param_value(value)) for key, value in new.items()), _param):
            self.log("params", params)
            self.params.update({param.key: param.value for param in params})

    def set_status(self, status: str) -> None:
        """Set how the run stands: RUNNING, or what it ended as."""
        if status == "RUNNING":
            self.connection.call(lambda client: client.update_run(self.mlflow_run_id, status=status))
        else:
            self.connection.call(lambda client: client.set_terminated(self.mlflow_run_id, status=status))

    # ---- what the store refuses ----

    def examine(self) -> None:
        """Raise BackendRefused where the run takes nothing, so that what it refused is not to blame."""
        with self._nothing_is_to_blame():
            found = self.connection.call(lambda client: client.get_run(self.mlflow_run_id))
            check_active(found, self.connection)
            uid = found.data.tags.get(RUN_UID_TAG, "")
            self.connection.call(lambda client: client.set_tag(self.mlflow_run_id, RUN_UID_TAG, uid))

    @contextmanager
    def _nothing_is_to_blame(self) -> Iterator[None]:
        try:
            yield
        except PoisonEntry as error:
            raise BackendRefused(
                f"the MLflow run {self.mlflow_run_id} takes nothing, not even the tag that it has: {error}"
            ) from error

    def note_refused(self, entry: int) -> None:
        """Sum up what was refused of an entry that is stored otherwise."""
        refused, self.refused = self.refused, []
        if not refused:
            return
        # A record's cells share its step and its timestamp.
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

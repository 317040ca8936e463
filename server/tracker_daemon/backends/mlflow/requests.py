"""Metrics, params and tags in pieces that MLflow takes as one request.

A request has at most 1,000 metrics, 100 params or 100 tags, and 1 MB.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from tracker_daemon.aggregation.shared.record import RecordBlock
from tracker_daemon.backends.mlflow.metric_display import RunningSummary
from tracker_daemon.backends.mlflow.names import mlflow_key
from tracker_protocol import limits

if TYPE_CHECKING:
    from mlflow.entities import Metric


_METRIC_BYTES = 160
"""What a metric weighs in a request beside its key: the longest numbers and the names of its fields."""
_PAIR_BYTES = 60

T = TypeVar("T")


def metrics_of(
    block: RecordBlock, keys: Sequence[str], other_steps: Mapping[int, Sequence[int]] = MappingProxyType({})
) -> Iterator[list[Metric]]:
    """A block's cells, row by row, in requests.

    ``keys``: one for each of its columns; ``other_steps``: for columns (by place) that have another axis than
    the training step, the step of each row.

    A metric's timestamp is its record's, in milliseconds, plus its occurrence: a store tells points apart by
    (key, value, timestamp, step), which two equal values at one step would share within a millisecond.
    """
    from mlflow.entities import Metric  # noqa: PLC0415  # the package is optional

    weights = [_METRIC_BYTES + _weight(key) for key in keys]
    steps, values = block.steps.tolist(), block.values.tolist()
    times_ms = (block.times_ns // 1_000_000 + block.occurrences).clip(min=0).tolist()
    valid = None if block.valid is None else block.valid.tolist()

    def cells() -> Iterator[tuple[Metric, int]]:
        for row, cells_of_row in enumerate(values):
            time_ms, step = times_ms[row], steps[row]
            for column, value in enumerate(cells_of_row):
                if valid is None or valid[row][column]:
                    along = other_steps.get(column)
                    at = step if along is None else along[row]
                    yield Metric(keys[column], value, time_ms, at), weights[column]

    return _pieces(cells(), limits.MLFLOW_METRICS_PER_REQUEST_MAX)


def summary_metrics(summaries: Iterable[tuple[str, RunningSummary]]) -> Iterator[list[Metric]]:
    """Summaries by key, one point each, in requests."""
    from mlflow.entities import Metric  # noqa: PLC0415  # the package is optional

    weighed = (
        (Metric(key, so_far.value, so_far.time_ms, so_far.step), _METRIC_BYTES + _weight(key))
        for key, so_far in summaries
    )
    return _pieces(weighed, limits.MLFLOW_METRICS_PER_REQUEST_MAX)


def pairs(items: Iterable[tuple[str, str]], make: Callable[[str, str], T]) -> Iterator[list[T]]:
    """Params or tags, made by ``make(key, value)``, in requests."""
    weighed = ((make(key, value), _PAIR_BYTES + _weight(key) + _weight(value)) for key, value in items)
    return _pieces(weighed, limits.MLFLOW_PARAMS_OR_TAGS_PER_REQUEST_MAX)


def tag_value(text: str) -> str:
    """``text`` as a tag's value, cut where it is too long."""
    return _cut(text, limits.MLFLOW_TAG_MAX_CHARACTERS)


def param_value(text: str) -> str:
    """``text`` as a param's value, cut where it is too long."""
    return _cut(text, limits.MLFLOW_PARAM_MAX_CHARACTERS)


def whole_value_tags(key: str, text: str) -> Iterator[tuple[str, str]]:
    """Tags that hold the whole of a param's value, where the param itself cannot."""
    if len(text) <= limits.MLFLOW_PARAM_MAX_CHARACTERS:
        return
    for number, at in enumerate(range(0, len(text), limits.MLFLOW_TAG_MAX_CHARACTERS), 1):
        yield (
            tag_key("tracker.whole_param", f"{key}.{number}"),
            text[at : at + limits.MLFLOW_TAG_MAX_CHARACTERS],
        )


def tag_key(kind: str, key: str) -> str:
    """The tag ``<kind>.<key>``, or one that stands for it where that is too long."""
    whole = f"{kind}.{key}"
    return whole if len(whole) <= limits.MLFLOW_KEY_MAX_CHARACTERS else mlflow_key(whole)


def _cut(text: str, characters: int) -> str:
    # Some stores' databases take no NUL in a text.
    text = text.replace("\0", "�")
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _weight(text: str) -> int:
    return len(json.dumps(text))


def _pieces(weighed: Iterable[tuple[T, int]], count_max: int) -> Iterator[list[T]]:
    piece: list[T] = []
    weight = 0
    for item, its_weight in weighed:
        if piece and (len(piece) == count_max or weight + its_weight > limits.MLFLOW_REQUEST_MAX_BYTES):
            yield piece
            piece, weight = [], 0
        piece.append(item)
        weight += its_weight
    if piece:
        yield piece

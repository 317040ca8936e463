"""Metrics, params and tags in requests of a size that MLflow accepts.

A request has at most 1,000 metrics, 100 params or 100 tags, and at most 1 MB.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, TypeVar

from tracker_daemon.aggregation.values.record import RecordBlock, TextCell
from tracker_daemon.backends.mlflow.metric_display import RunningSummary
from tracker_daemon.backends.mlflow.names import mlflow_key
from tracker_protocol import limits

if TYPE_CHECKING:
    from mlflow.entities import Metric


_METRIC_BYTES = 160
"""The size of a metric in a request without its key: its longest numbers and the names of its fields."""
_PAIR_BYTES = 60

T = TypeVar("T")


def metric_requests(
    block: RecordBlock, keys: Sequence[str], other_steps: Mapping[int, Sequence[int]] = MappingProxyType({})
) -> Iterator[list[Metric]]:
    """Yield a block's cells, row by row, in requests.

    ``keys`` holds a key for each column. ``other_steps`` holds the step of each row for the columns, by
    position, whose axis is not the training step.

    A metric's timestamp is that of its record, in milliseconds. A store distinguishes points by (key, value,
    timestamp, step). Times of records rise within a step, so two equal values there are two points.
    """
    from mlflow.entities import Metric  # noqa: PLC0415  # the package is optional

    sizes = [_METRIC_BYTES + _size_bytes(key) for key in keys]
    steps, values = block.steps.tolist(), block.values.tolist()
    times_ms = _times_ms(block)
    valid = None if block.valid is None else block.valid.tolist()

    def cells() -> Iterator[tuple[Metric, int]]:
        for row, cells_of_row in enumerate(values):
            time_ms, step = times_ms[row], steps[row]
            for column, value in enumerate(cells_of_row):
                if valid is None or valid[row][column]:
                    along = other_steps.get(column)
                    at = step if along is None else along[row]
                    yield Metric(keys[column], value, time_ms, at), sizes[column]

    return _requests(cells(), limits.MLFLOW_METRICS_PER_REQUEST_MAX)


def text_requests(
    block: RecordBlock,
    cells: Iterable[TextCell],
    keys: Mapping[str, str],
    other_steps: Mapping[str, Sequence[int]],
) -> Iterator[list[Metric]]:
    """Yield the texts of ``cells``, which are finite numbers, as metrics in requests.

    ``keys`` holds the key of each column, ``other_steps`` the step of each row for the columns whose axis is
    not the training step.
    """
    from mlflow.entities import Metric  # noqa: PLC0415  # the package is optional

    times_ms = _times_ms(block)

    def metrics() -> Iterator[tuple[Metric, int]]:
        for cell in cells:
            key, along = keys[cell.column], other_steps.get(cell.column)
            step = int(block.steps[cell.row]) if along is None else along[cell.row]
            yield Metric(key, float(cell.value), times_ms[cell.row], step), _METRIC_BYTES + _size_bytes(key)

    return _requests(metrics(), limits.MLFLOW_METRICS_PER_REQUEST_MAX)


def _times_ms(block: RecordBlock) -> list[int]:
    times: list[int] = (block.times_ns // 1_000_000).clip(min=0).tolist()
    return times


def summary_requests(summaries: Iterable[tuple[str, RunningSummary]]) -> Iterator[list[Metric]]:
    """Yield summaries by key in requests, with one point for each."""
    from mlflow.entities import Metric  # noqa: PLC0415  # the package is optional

    sized = (
        (Metric(key, summary.value, summary.time_ms, summary.step), _METRIC_BYTES + _size_bytes(key))
        for key, summary in summaries
    )
    return _requests(sized, limits.MLFLOW_METRICS_PER_REQUEST_MAX)


def pair_requests(items: Iterable[tuple[str, str]], make: Callable[[str, str], T]) -> Iterator[list[T]]:
    """Yield params or tags in requests; ``make(key, value)`` makes one."""
    sized = ((make(key, value), _PAIR_BYTES + _size_bytes(key) + _size_bytes(value)) for key, value in items)
    return _requests(sized, limits.MLFLOW_PARAMS_OR_TAGS_PER_REQUEST_MAX)


def tag_value(text: str) -> str:
    """Return ``text`` as a tag's value, shortened if necessary."""
    return _cut(text, limits.MLFLOW_TAG_MAX_CHARACTERS)


def param_value(text: str) -> str:
    """Return ``text`` as a param's value, shortened if necessary."""
    return _cut(text, limits.MLFLOW_PARAM_MAX_CHARACTERS)


def whole_value_tags(key: str, text: str) -> Iterator[tuple[str, str]]:
    """Yield tags that together hold the whole value of a param; none if the param itself can hold it."""
    if len(text) <= limits.MLFLOW_PARAM_MAX_CHARACTERS:
        return
    for number, at in enumerate(range(0, len(text), limits.MLFLOW_TAG_MAX_CHARACTERS), 1):
        yield (
            tag_key("tracker.whole_param", f"{key}.{number}"),
            text[at : at + limits.MLFLOW_TAG_MAX_CHARACTERS],
        )


def tag_key(kind: str, key: str) -> str:
    """Return the tag ``<kind>.<key>``, or a replacement key if that is too long."""
    whole = f"{kind}.{key}"
    return whole if len(whole) <= limits.MLFLOW_KEY_MAX_CHARACTERS else mlflow_key(whole)


def _cut(text: str, characters: int) -> str:
    # The databases of some stores accept no NUL in a text.
    text = text.replace("\0", "�")
    return text if len(text) <= characters else text[: characters - 1] + "…"


def _size_bytes(text: str) -> int:
    return len(json.dumps(text))


def _requests(sized: Iterable[tuple[T, int]], count_max: int) -> Iterator[list[T]]:
    request: list[T] = []
    size_bytes = 0
    for item, item_bytes in sized:
        if request and (
            len(request) == count_max or size_bytes + item_bytes > limits.MLFLOW_REQUEST_MAX_BYTES
        ):
            yield request
            request, size_bytes = [], 0
        request.append(item)
        size_bytes += item_bytes
    if request:
        yield request

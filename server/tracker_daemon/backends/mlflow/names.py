"""Names that MLflow accepts for metrics, params, tags and experiments, and keys for all other names.

A key has at most 250 letters, digits, spaces and ``_ - . : /``, and is a relative path in its simplest
form. A name that is no key is replaced by a key with a short hash of the name at its end. So two names
never share a key, and the same name always gives the same key.
"""

from __future__ import annotations

import hashlib
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from tracker_daemon.rules.metric_names import STATISTICS, aggregate_base
from tracker_protocol import limits

_REFUSED = re.compile(r"[^/\w.\- :]")
_RESERVED = ("mlflow.", "tracker.")
_LOCAL = "/local"


def mlflow_key(name: str) -> str:
    """Return ``name`` if MLflow accepts it, else a key that belongs to this name alone."""
    return name if _is_key(name) else _replacement(name)


def text_key(name: str) -> str:
    """Return the tag for a metric whose values are texts; never a tag that MLflow or the tracker sets."""
    return mlflow_key(f"text/{name}" if name.startswith(_RESERVED) else name)


def experiment_name(asked: object, project: str) -> str:
    """Return the experiment's name: the one the script asked for, else the project; dots become hyphens.

    A name that begins with a slash is the path of a workspace, and keeps its dots.
    """
    name = str(asked).strip() if asked else project.strip()
    if not name.startswith("/"):
        name = name.replace(".", "-")
    return name[: limits.MLFLOW_EXPERIMENT_NAME_MAX_CHARACTERS] or "tracker"


class MetricKeys:
    """The keys of a run's metrics; ``aggregated`` holds the metrics that have aggregates so far.

    The own value of such a metric is stored as ``<metric>/local``. The set follows from the records alone
    and is part of the backend's state, so a repeated delivery uses the same keys.
    """

    def __init__(self, aggregated: Sequence[str] = ()) -> None:
        self.aggregated = set(aggregated)

    def of(self, columns: Sequence[str]) -> list[str]:
        """Return the keys of a block's columns, and note the metrics that have aggregates."""
        for column in columns:
            base = aggregate_base(column)
            if base is not None and column.rpartition("/")[2] in STATISTICS:
                self.aggregated.add(base)
        return [self._key(column) for column in columns]

    def _key(self, column: str) -> str:
        if column in self.aggregated:
            return mlflow_key(column + _LOCAL)
        if column.endswith(_LOCAL) and column.removesuffix(_LOCAL) in self.aggregated:
            return _replacement(column)  # the script's own metric of that name
        return mlflow_key(column)


def flatten(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """Yield the leaves of a nested configuration as (name, text); dots join the names."""
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else str(key)
        if isinstance(value, Mapping) and value:
            yield from flatten(value, name)
        else:
            yield name, str(value)


def _is_key(name: str) -> bool:
    return (
        0 < len(name) <= limits.MLFLOW_KEY_MAX_CHARACTERS
        and not _REFUSED.search(name)
        and posixpath.normpath(name) == name
        and not name.startswith(("/", ".."))
        and name != "."
    )


def _replacement(name: str) -> str:
    parts = [part for part in _REFUSED.sub("_", name).split("/") if part not in {"", ".", ".."}]
    # MLflow takes a key that begins with two dots for a path out of a directory.
    stem = "/".join(parts).lstrip("./")[: limits.MLFLOW_KEY_STEM_MAX_CHARACTERS] or "metric"
    return f"{stem}-{hashlib.sha256(name.encode(errors='backslashreplace')).hexdigest()[:8]}"

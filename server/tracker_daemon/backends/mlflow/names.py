"""What MLflow lets one call a metric, a param, a tag and an experiment, and how other names get in.

A key has at most 250 letters, digits and ``_ - . : /`` and spaces, and reads as a relative path in its
simplest form. A name that is none becomes one that is, with a short hash of the name behind it, so that two
names never share a key; the same name always gives the same key.
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
    """``name`` where MLflow takes it, else a key that stands for it and for nothing else."""
    return name if _is_key(name) else _stand_in(name)


def text_key(name: str) -> str:
    """The tag for a metric whose values are texts; those that MLflow and the tracker set are kept apart."""
    return mlflow_key(f"text/{name}" if name.startswith(_RESERVED) else name)


def experiment_name(asked: object, project: str) -> str:
    """The experiment's name: what the script asked for, else the project; dots become hyphens.

    A name that begins with a slash is a path of a workspace, in which dots mean what they are.
    """
    name = str(asked).strip() if asked else project.strip()
    if not name.startswith("/"):
        name = name.replace(".", "-")
    return name[: limits.MLFLOW_EXPERIMENT_NAME_MAX_CHARACTERS] or "tracker"


class MetricKeys:
    """The keys of a run's metrics. ``aggregated``: those that stand beside aggregates, added to as they come.

    The own value of such a metric goes to ``<metric>/local``. Which ones they are follows from the
    records alone and is part of the backend's state, so that what is delivered again gets the same keys.
    """

    def __init__(self, aggregated: Sequence[str] = ()) -> None:
        self.aggregated = set(aggregated)

    def of(self, columns: Sequence[str]) -> list[str]:
        """The keys for the columns of a block."""
        for column in columns:
            base = aggregate_base(column)
            if base is not None and column.rpartition("/")[2] in STATISTICS:
                self.aggregated.add(base)
        return [self._key(column) for column in columns]

    def _key(self, column: str) -> str:
        if column in self.aggregated:
            return mlflow_key(column + _LOCAL)
        if column.endswith(_LOCAL) and column.removesuffix(_LOCAL) in self.aggregated:
            return _stand_in(column)  # the script's own, beside the one made above
        return mlflow_key(column)


def flatten(config: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, str]]:
    """The leaves of a nested configuration as (name, text), names joined by dots."""
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


def _stand_in(name: str) -> str:
    parts = [part for part in _REFUSED.sub("_", name).split("/") if part not in {"", ".", ".."}]
    # A key that begins with two dots is taken for a way out of a directory.
    stem = "/".join(parts).lstrip("./")[: limits.MLFLOW_KEY_STEM_MAX_CHARACTERS] or "metric"
    return f"{stem}-{hashlib.sha256(name.encode(errors='backslashreplace')).hexdigest()[:8]}"

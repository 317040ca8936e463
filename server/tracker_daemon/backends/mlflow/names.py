"""Names that MLflow accepts for metrics, params, tags and experiments, and keys for all other names.

A key has at most 250 letters, digits, spaces and ``_ - . : /``, and is a relative path in its simplest
form. A name that is no key is replaced by a key with a short hash of the name at its end. A metric and its
aggregates have the same hash: ``loss_-1f0c3a52`` and ``loss_-1f0c3a52/mean``. So two names never share a key,
and the same name always gives the same key.
"""

from __future__ import annotations

import hashlib
import json
import math
import posixpath
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from tracker_daemon.rules.metric_names import STATISTICS, aggregate_base, rank_base
from tracker_protocol import limits

_REFUSED = re.compile(r"[^/\w.\- :]")
_RESERVED = ("mlflow.", "tracker.")
_LOCAL = "/local"


def mlflow_key(name: str) -> str:
    """Return ``name`` if MLflow accepts it, else a key that belongs to this name alone."""
    if _is_key(name):
        return name
    base = _base(name)
    if base is None:
        return _replacement(name)
    # A base that is a key itself has no room for the suffix.
    key = (_replacement(base) if _is_key(base) else mlflow_key(base)) + name[len(base) :]
    return key if _is_key(key) else _replacement(name)


def _base(name: str) -> str | None:
    """Return the metric of which ``name`` is an aggregate or a rank's own value; None if it is neither."""
    if name.endswith(_LOCAL):
        return name.removesuffix(_LOCAL) or None
    of_rank = rank_base(name)
    return aggregate_base(name) if of_rank is None else of_rank[0]


def text_key(name: str) -> str:
    """Return the tag for a metric whose values are texts; never a tag that MLflow or the tracker sets."""
    return mlflow_key(f"text/{name}" if name.startswith(_RESERVED) else name)


def number_in(text: str) -> float | None:
    """Return the finite number that ``text`` is; None if it is another text, or has an underscore."""
    try:
        number = math.nan if "_" in text else float(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def experiment_name(asked: object, project: str) -> str:
    """Return the experiment's name: the one the script asked for, else the project; dots become hyphens.

    A name that begins with a slash is the path of a workspace, and keeps its dots.
    """
    name = str(asked).strip() if asked else project.strip()
    if not name.startswith("/"):
        name = name.replace(".", "-")
    return name[: limits.MLFLOW_EXPERIMENT_NAME_MAX_CHARACTERS] or "tracker"


class MetricKeys:
    """The keys of a run's metrics.

    With ``local`` the own value of a metric that has aggregates is stored as ``<metric>/local``;
    ``aggregated`` holds these metrics so far. The set follows from the records alone and is part of the
    backend's state, so a repeated delivery uses the same keys.
    """

    def __init__(self, aggregated: Sequence[str] = (), *, local: bool = False) -> None:
        self.aggregated = set(aggregated)
        self.local = local

    def of(self, columns: Sequence[str]) -> list[str]:
        """Return the keys of a block's columns, and note the metrics that have aggregates."""
        for column in columns if self.local else ():
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


# ---- params --------------------------------------------------------------------------------------


class Param(NamedTuple):
    """One value of a configuration.

    ``path`` is "" if ``name`` is where the value lies; else it is that place, as a JSON list of keys.
    """

    name: str
    value: str
    path: str = ""


def params_of(config: Mapping[str, Any], prefix: str = "") -> list[Param]:
    """Return the leaves of a nested configuration; dots join the names, behind ``prefix``.

    Two leaves may have one name: ``{"a.b": 1, "a": {"b": 2}}``. Then a leaf that needs no dots within its
    keys keeps the name, else the first; another one has a hash at its end.
    """
    leaves = list(_leaves(config, (prefix,) if prefix else ()))
    owners: dict[str, tuple[str, ...]] = {}
    for path, _ in sorted(leaves, key=lambda leaf: any("." in key for key in leaf[0])):
        owners.setdefault(".".join(path), path)
    return [_param(path, value, owners) for path, value in leaves]


def _param(path: tuple[str, ...], value: str, owners: Mapping[str, tuple[str, ...]]) -> Param:
    name = ".".join(path)
    if owners[name] == path:
        return Param(name, value)
    place = json.dumps(path, ensure_ascii=False)
    return Param(f"{name}-{_hash(place)}", value, place)


def _leaves(config: Mapping[str, Any], path: tuple[str, ...]) -> Iterator[tuple[tuple[str, ...], str]]:
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _leaves(value, (*path, str(key)))
        else:
            yield (*path, str(key)), str(value)


# ---- keys ----------------------------------------------------------------------------------------


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
    return f"{stem}-{_hash(name)}"


def _hash(text: str) -> str:
    return hashlib.sha256(text.encode(errors="backslashreplace")).hexdigest()[:8]

"""The run's configuration: the primary rank's, merged; its changes; and other ranks' differences. Pure.

Every rank sends its configuration. The primary's documents are merged at the top level, in order. Each leaf
that a later document changes is a *change*. The first document of each other rank in an attempt is compared
with the primary's first, except for keys that may differ. Ranks with equal documents share one *variant*: so
ten thousand ranks cost a checksum each, and the bounds hold for any input. Differences are reported once for
all ranks: when every expected rank has sent its configuration, ``learn_wait`` after the first difference, or
at the end.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from fnmatch import fnmatchcase
from typing import Any

from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.rules.rank_selection import RankSet
from tracker_protocol import limits

_VALUE_SHOWN_CHARACTERS = 80
_KEYS_SHOWN_MAX = 5
_REPORTS_MAX = 10
_CHANGES_REPORTED_MAX = 20
"""Later calls of log_config appear only in the history, so that other events stay visible."""
_DOCUMENTS_REMEMBERED = 1_024
_NEVER = -1
EMPTY_CONFIGURATION = "{}"
"""A rank that is set up without a configuration sends this before its first later one."""
Flat = dict[str, str]
_Change = tuple[str, str, str | None]
"""Dotted key, old JSON, new JSON or None where the key is gone."""


@dataclass(slots=True)
class Variant:
    """The configuration of some ranks: JSON by dotted key."""

    flat: Flat
    ranks: list[int] = field(default_factory=list)
    reported: bool = False


@dataclass(slots=True)
class ConfigUpdate:
    """The output since the last tick: documents for backends, changes, and sentences for people."""

    documents: list[str] = field(default_factory=list)
    later: list[int] = field(default_factory=list)
    """The positions of the documents that were logged after the set-up."""
    changes: list[dict[str, Any]] = field(default_factory=list)
    notices: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    """Notices that the primary rank's user must see as well."""


class ConfigLedger:
    """The state of one run's configuration. ``plain`` and ``restore`` are for the fold's snapshot."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self.news = ConfigUpdate()
        self.effective: dict[str, Any] = {}
        self.sizes: dict[str, int] = {}
        self.change_count = 0
        self.changing_calls = 0
        self.refused = False
        self._begin()

    def _begin(self) -> None:
        self.set_up = False
        """True once the primary has sent the configuration that it was set up with, an empty one perhaps."""
        self.sent: set[int] = set()
        self.variants: dict[int, Variant] = {}
        self.variant_of: dict[int, int] = {}
        self.primary: int | None = None
        self.unlisted = 0
        self.reports = 0
        self.report_at_ns = _NEVER

    def open_attempt(self) -> None:
        """Compare the ranks of the new attempt anew; the configuration continues."""
        self._begin()

    # ---- in --------------------------------------------------------------------------------------

    def add(self, rank: int, attempt: int, documents: Iterable[str], now_ns: int) -> None:
        """Merge and compare a rank's documents, in their order."""
        for document in documents:
            if rank not in self.sent and document != EMPTY_CONFIGURATION:
                self.sent.add(rank)
                self._compare(rank, document, now_ns)
            if rank == self._rules.primary_rank:
                self._merge(rank, attempt, document, now_ns)

    def _merge(self, rank: int, attempt: int, document: str, now_ns: int) -> None:
        update, document = _strict(document)
        later, self.set_up = self.set_up, True
        if not update:
            return
        sizes = {key: len(json.dumps({key: value})) for key, value in update.items()}
        if sum({**self.sizes, **sizes}.values()) > limits.CONFIG_TOTAL_MAX_BYTES:
            if not self.refused:
                self.refused = True
                self._warn(
                    f"the run's configuration would exceed {limits.CONFIG_TOTAL_MAX_BYTES} bytes with "
                    f"{_shown_keys(sorted(update))}; that is not recorded. Log as metrics what changes"
                )
            return
        changes = [*_changes(self.effective, update)]
        self.sizes.update(sizes)
        self.effective.update(update)
        if later:
            self.news.later.append(len(self.news.documents))
        self.news.documents.append(document)
        if changes:
            self._note_changes(rank, attempt, changes, now_ns)

    def _note_changes(self, rank: int, attempt: int, changes: list[_Change], now_ns: int) -> None:
        self.changing_calls += 1
        if self.changing_calls <= _CHANGES_REPORTED_MAX:
            shown = ", ".join(
                f"{key} {_cut(old)} → {_cut(new)}" for key, old, new in changes[:_KEYS_SHOWN_MAX]
            )
            more = f" and {len(changes) - _KEYS_SHOWN_MAX} more" if len(changes) > _KEYS_SHOWN_MAX else ""
            self.news.notices.append(f"rank {rank} changed the configuration: {shown}{more}")
        time = datetime.fromtimestamp(now_ns / 1e9, tz=timezone.utc).isoformat(timespec="milliseconds")
        for key, old, new in changes:
            if self.change_count == limits.CONFIG_CHANGES_MAX:
                return
            self.change_count += 1
            change = {"number": self.change_count, "time": time, "attempt": attempt, "rank": rank, "key": key}
            change["old"] = _bounded(old)
            if new is not None:
                change["new"] = _bounded(new)
            self.news.changes.append(change)

    # ---- differences -----------------------------------------------------------------------------

    def _compare(self, rank: int, document: str, now_ns: int) -> None:
        raw = zlib.crc32(document.encode())
        key = self.variant_of.get(raw)
        if key is None:
            flat = self._comparable(document)
            key = zlib.crc32(json.dumps(sorted(flat.items())).encode())
            if len(self.variant_of) < _DOCUMENTS_REMEMBERED:
                self.variant_of[raw] = key
            primary = rank == self._rules.primary_rank
            if key not in self.variants and (primary or len(self.variants) < limits.CONFIG_VARIANTS_MAX):
                self.variants[key] = Variant(flat)
        if rank == self._rules.primary_rank:
            self.primary = key
        variant = self.variants.get(key)
        if variant is None:
            self.unlisted += 1
        else:
            variant.ranks.append(rank)
        if self.report_at_ns == _NEVER and self._differing():
            self.report_at_ns = now_ns + self._rules.learn_wait_ns

    def _comparable(self, document: str) -> Flat:
        values, _ = _strict(document)
        return {
            key: _bounded_text(text)
            for key, text in _leaves(values)
            if not _may_differ(key, self._rules.config_may_differ)
        }

    def _differing(self) -> list[Variant]:
        """Return the unreported variants other than the primary's, once that is known."""
        if self.primary is None or self.reports >= _REPORTS_MAX:
            return []
        return [
            variant for key, variant in self.variants.items() if key != self.primary and not variant.reported
        ]

    def next_deadline_ns(self) -> int | None:
        """Return the latest time for the report of differences; None while none is due."""
        return None if self.report_at_ns == _NEVER else self.report_at_ns

    def settle(self, now_ns: int, expected: Callable[[], Iterable[int]], *, over: bool) -> ConfigUpdate:
        """Return the tick's output; ``expected`` are the ranks that may still send their configuration."""
        waiting = self.report_at_ns != _NEVER
        if waiting and (over or now_ns >= self.report_at_ns or self.sent.issuperset(expected())):
            self._report(self._differing())
            self.report_at_ns = _NEVER
        news, self.news = self.news, ConfigUpdate()
        return news

    def _report(self, differing: list[Variant]) -> None:
        assert self.primary is not None
        counts, primary = self.variants[self.primary].flat, self._rules.primary_rank
        by_key: dict[str, list[tuple[str | None, list[int]]]] = {}
        for variant in differing:
            variant.reported = True
            for key in sorted({*counts, *variant.flat}):
                if counts.get(key) != variant.flat.get(key):
                    by_key.setdefault(key, []).append((variant.flat.get(key), variant.ranks))
        ranks = _ranks(rank for variant in differing for rank in variant.ranks)
        shown = "; ".join(
            _difference(key, counts.get(key), others, primary)
            for key, others in [*by_key.items()][:_KEYS_SHOWN_MAX]
        )
        more = f"; and {len(by_key) - _KEYS_SHOWN_MAX} more keys" if len(by_key) > _KEYS_SHOWN_MAX else ""
        self.reports += 1
        self._warn(
            f"{ranks} {'was' if ranks.startswith('rank ') else 'were'} set up with another configuration "
            f"than rank {primary}, whose values count: {shown}{more}"
        )

    def _warn(self, text: str) -> None:
        self.news.notices.append(text)
        self.news.warnings.append(text)

    # ---- the snapshot ----------------------------------------------------------------------------

    def plain(self) -> dict[str, Any]:
        """Return the state between two ticks."""
        return {
            "effective": json.dumps(self.effective),
            "change_count": self.change_count,
            "changing_calls": self.changing_calls,
            "refused": self.refused,
            "set_up": self.set_up,
            "sent": sorted(self.sent),
            "variants": [[key, v.flat, v.ranks, v.reported] for key, v in self.variants.items()],
            "variant_of": [*self.variant_of.items()],
            "primary": self.primary,
            "unlisted": self.unlisted,
            "reports": self.reports,
            "report_at_ns": self.report_at_ns,
        }

    def restore(self, plain: Mapping[str, Any]) -> None:
        """Restore the state of :meth:`plain`."""
        self.effective = json.loads(plain["effective"])
        self.sizes = {key: len(json.dumps({key: value})) for key, value in self.effective.items()}
        for name in (
            "change_count",
            "changing_calls",
            "refused",
            "set_up",
            "primary",
            "unlisted",
            "reports",
            "report_at_ns",
        ):
            setattr(self, name, plain[name])
        self.sent = set(plain["sent"])
        self.variants = {
            key: Variant(flat, ranks, reported) for key, flat, ranks, reported in plain["variants"]
        }
        self.variant_of = dict(plain["variant_of"])


# ---- documents -----------------------------------------------------------------------------------


def _strict(document: str) -> tuple[dict[str, Any], str]:
    """Return a document's values and its text; values that JSON lacks (NaN) have become texts."""
    odd: list[str] = []

    def as_text(constant: str) -> str:
        odd.append(constant)
        return {"NaN": "nan", "Infinity": "inf", "-Infinity": "-inf"}[constant]

    values: dict[str, Any] = json.loads(document, parse_constant=as_text)
    return values, json.dumps(values) if odd else document


def _leaves(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Yield (dotted key, JSON) of each value that is no object, or an empty one."""
    for key, value in values.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, dict) and value:
            yield from _leaves(value, name)
        else:
            yield name, json.dumps(value, ensure_ascii=False)


def _changes(before: Mapping[str, Any], update: Mapping[str, Any]) -> Iterator[_Change]:
    """Yield the values that were there before and are different now."""
    for key, value in update.items():
        if key not in before or before[key] == value:
            continue
        new = dict(_leaves({key: value}))
        for name, old in _leaves({key: before[key]}):
            if new.get(name) != old:
                yield name, old, new.get(name)


def _may_differ(key: str, globs: Iterable[str]) -> bool:
    whole = key.lower()  # RANK and LOCAL_RANK too
    names = (whole, whole.rpartition(".")[2])
    return any(fnmatchcase(name, glob.lower()) for name in names for glob in globs)


def _bounded_text(text: str) -> str:
    """Return a text to compare a value by: for a long one with its checksum."""
    most = limits.CONFIG_VALUE_COMPARED_CHARACTERS
    return text if len(text) <= most else f"{text[:most]}… ({zlib.crc32(text.encode(errors='replace')):08x})"


def _bounded(text: str) -> Any:
    """Return a value for the history: cut to a text if it is long."""
    most = limits.CONFIG_VALUE_COMPARED_CHARACTERS
    return json.loads(text) if len(text) <= most else f"{text[:most]}…"


# ---- sentences -----------------------------------------------------------------------------------


def _difference(
    key: str, counts: str | None, others: list[tuple[str | None, list[int]]], primary: int
) -> str:
    differing = ", ".join(f"{_cut(value)} on {_ranks(ranks)}" for value, ranks in others[:_KEYS_SHOWN_MAX])
    more = ", …" if len(others) > _KEYS_SHOWN_MAX else ""
    return f"{key} is {_cut(counts)} on rank {primary}, {differing}{more}"


def _ranks(ranks: Iterable[int]) -> str:
    named = str(RankSet.parse(",".join(map(str, ranks))))
    return f"{'rank' if named.isdigit() else 'ranks'} {_cut(named)}"


def _shown_keys(keys: list[str]) -> str:
    return ", ".join(map(_cut, keys[:_KEYS_SHOWN_MAX])) + (" …" if len(keys) > _KEYS_SHOWN_MAX else "")


def _cut(text: str | None) -> str:
    if text is None:
        return "not set"
    return text if len(text) <= _VALUE_SHOWN_CHARACTERS else text[: _VALUE_SHOWN_CHARACTERS - 1] + "…"

"""The names under which metrics are recorded, fixed when a metric is first emitted.

A metric may have the name of an aggregate (``loss/mean``), or of a recorded rank's value (``loss/rank3``). It
is a metric as any other, unless the daemon computes that column itself. Then the daemon's value has the name,
and the script's value is recorded under ``loss/mean/logged``. If the script's value was emitted first, it
keeps the name, and the daemon does not record its own.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from tracker_daemon.aggregation.root.panel.contributions import RootPanel
from tracker_daemon.aggregation.shared.books import Books
from tracker_daemon.aggregation.shared.placement import Place
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.rules.metric_names import SUFFIXES, aggregate_base, logged_name, rank_base


class Metrics(Protocol):
    """What the names depend on: the metrics of an attempt."""

    panels: list[RootPanel]
    place_of: dict[str, Place]

    def records(self, panel: RootPanel, rank: int) -> bool:
        """Return True if the rank's values of the panel's metrics are recorded under its name."""

    def expects_several(self) -> bool:
        """Return True if more than one rank is expected."""


class Naming:
    """The recorded names of one run. ``kept`` are names of this form that the script's metrics have."""

    def __init__(
        self,
        rules: Rules,
        books: Books,
        notices: list[str],
    ) -> None:
        self._rules = rules
        self._books = books
        self._notices = notices
        self.kept: set[str] = set()
        self.moved: set[str] = set()
        """Metrics that are recorded under another name."""

    def shown(self, panel: RootPanel, column: int, metrics: Metrics) -> str:
        """Return the recorded name of a metric, which is fixed from now on."""
        name = panel.shown[column]
        if name is None:
            name = panel.shown[column] = self.shown_name(panel.names[column], metrics)
        return name

    def shown_name(self, name: str, metrics: Metrics) -> str:
        """Return the recorded name of the metric ``name``, which is fixed from now on."""
        if name in self.moved:
            return logged_name(name)
        if name in self.kept or (aggregate_base(name) is None and rank_base(name) is None):
            return name
        if not _is_computed(name, metrics):
            self.kept.add(name)
            return name
        self.moved.add(name)
        self._books.warn_once(
            self._notices,
            ("computed", name),
            f"{name!r} is logged by the script and recorded by the daemon across ranks; the daemon's value "
            f"has this name, and the script's value is recorded as {logged_name(name)!r}",
        )
        return logged_name(name)

    def give_way(self, panel: RootPanel) -> None:
        """Leave out the aggregates whose names the script's own metrics have; warn about each once."""
        if panel.kept_names == len(self.kept):
            return
        panel.kept_names = len(self.kept)
        for column, suffix in np.argwhere(panel.wanted).tolist():
            name = f"{panel.names[column]}/{SUFFIXES[suffix]}"
            if name not in self.kept:
                continue
            panel.wanted[column, suffix] = False
            self._books.warn_once(
                self._notices,
                ("kept", name),
                f"{name!r} was logged by the script before {panel.names[column]!r}; it keeps the name, and "
                "the daemon does not record its own value of this name",
            )


def _is_computed(name: str, metrics: Metrics) -> bool:
    """Return True if the daemon itself records a column of this name."""
    base, rank = rank_base(name) or (aggregate_base(name), None)
    if base is None or base not in metrics.place_of:
        return False
    index, column = metrics.place_of[base]
    panel = metrics.panels[index]
    if rank is not None:
        return rank in panel.slot_of and int(panel.owner[column]) != rank and metrics.records(panel, rank)
    if not panel.wanted[column, SUFFIXES.index(name.rpartition("/")[2])]:
        return False
    return bool(panel.aggregated[column]) or (not panel.learned[column] and metrics.expects_several())

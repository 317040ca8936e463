"""Narrowing: a request that MLflow finds bad, cut down to the items that it finds bad.

MLflow takes a request whole or not at all, so one metric, param or tag that a store refuses would keep
hundreds of others out. Such a request is sent again in halves, down to single items; those that are
refused alone are left out and reported, and all others are stored. A store may call bad what is no fault of
the items, so before anything is left out it must have taken something that is surely good.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tracker_daemon.errors import PoisonEntry

Send = Callable[[Sequence[Any]], None]
"""Stores items (metrics, params or tags) in one request; PoisonEntry where MLflow finds them bad."""


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """A metric, a param or a tag that the store did not take, and why."""

    item: Any
    reason: str


def store_narrowed(
    items: Sequence[Any], send: Send, examine: Callable[[], None], alive: Callable[[], None]
) -> list[RefusedItem]:
    """Store ``items`` and return those that the store refuses alone.

    ``examine`` is called once a request is refused, and raises where that is not the items' fault;
    ``alive`` is called between requests, of which a bad one may cost twice as many as it has items.
    """
    try:
        send(items)
    except PoisonEntry:
        examine()
    else:
        return []
    # A key that is refused is then in few of the parts, and each part that is taken whole costs one request.
    return _narrowed(sorted(items, key=lambda item: str(item.key)), send, alive)


def _narrowed(items: Sequence[Any], send: Send, alive: Callable[[], None]) -> list[RefusedItem]:
    alive()
    try:
        send(items)
    except PoisonEntry as error:
        if len(items) == 1:
            return [RefusedItem(items[0], str(error))]
    else:
        return []
    middle = len(items) // 2
    return _narrowed(items[:middle], send, alive) + _narrowed(items[middle:], send, alive)

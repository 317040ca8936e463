"""Bisection of a refused request, down to the items that the store refuses.

MLflow accepts a whole request or nothing of it. So one refused metric, param or tag would keep hundreds of
others out of the store. A refused request is sent again in halves, down to single items. An item that is
refused alone is left out and reported; all other items are stored. A store may refuse a request for a reason
that is not in its items. So before an item is left out, the store must have accepted a write that is
certainly valid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from tracker_daemon.errors import PoisonEntry

Send = Callable[[Sequence[Any]], None]
"""Stores items (metrics, params or tags) in one request; raises PoisonEntry if MLflow finds them invalid."""


@dataclass(frozen=True, slots=True)
class RefusedItem:
    """A metric, a param or a tag that the store refused, and its reason."""

    item: Any
    reason: str


def store_bisected(
    items: Sequence[Any], send: Send, check_writable: Callable[[], None], beat: Callable[[], None]
) -> list[RefusedItem]:
    """Store ``items`` and return the items that the store refuses.

    ``check_writable`` is called once after a refusal; it raises if the items are not the cause. ``beat`` is
    called between requests: a refused request may cost twice as many requests as it has items.
    """
    try:
        send(items)
    except PoisonEntry:
        check_writable()
    else:
        return []
    # Sorted, a refused key is in few parts; each part without one costs one request.
    return _bisected(sorted(items, key=lambda item: str(item.key)), send, beat)


def _bisected(items: Sequence[Any], send: Send, beat: Callable[[], None]) -> list[RefusedItem]:
    beat()
    try:
        send(items)
    except PoisonEntry as error:
        if len(items) == 1:
            return [RefusedItem(items[0], str(error))]
    else:
        return []
    middle = len(items) // 2
    return _bisected(items[:middle], send, beat) + _bisected(items[middle:], send, beat)

"""Tables, images, artifacts and histograms: from what a caller has to items of the stream.

Nothing here waits: what can change is copied, and what takes long (reading files, encoding, uploading) is
left to another thread.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from time import time_ns
from typing import Any

from tracker_client.arguments import step_number
from tracker_client.items import ItemDraft, ItemQueue
from tracker_client.refusals import Refusals
from tracker_protocol import limits


class Media:
    """What one tracker logs beside metrics. Its methods may raise what the caller's own objects raise."""

    def __init__(self, items: ItemQueue, refusals: Refusals) -> None:
        self._items = items
        self._refusals = refusals

    def document(self, kind: str, key: str, document: Mapping[str, Any], step: Any = None) -> None:
        """Log an item that is all in ``document``, which is made JSON at once."""
        text = json.dumps(document)
        if len(text) > limits.ITEM_DOCUMENT_MAX_BYTES:
            most = limits.ITEM_DOCUMENT_MAX_BYTES
            self._refusals.refuse(
                key, f"this {kind} has {len(text)} characters of JSON; {most} may be recorded"
            )
            return
        name = self._checked_key(key)
        if name is not None:
            self._announce(ItemDraft(kind, name, _step(step), time_ns(), text))

    def _checked_key(self, key: Any) -> str | None:
        if not isinstance(key, str):
            self._refusals.refuse(key, f"a name is a text, not a {type(key).__name__}; it is not recorded")
            return None
        size = len(key.encode("utf-8", "replace"))
        if not 1 <= size <= limits.METRIC_NAME_MAX_BYTES:
            self._refusals.refuse(key, f"a name has 1 to {limits.METRIC_NAME_MAX_BYTES} bytes, not {size}")
            return None
        return key.encode("utf-8", "replace").decode()

    def _announce(self, draft: ItemDraft) -> bool:
        announced = self._items.announce(draft)
        if not announced:
            reason = f"too much waits to be sent already; this {draft.kind} is not recorded"
            self._refusals.refuse(draft.key, reason)
        return announced


def _step(step: Any) -> int | None:
    if step is None:
        return None
    number = step_number(step)
    if abs(number) > limits.STEP_MAX:
        raise ValueError(f"a step lies beyond ±{limits.STEP_MAX}")
    return number

"""Items on their way to the stream: tables, images, artifacts, histograms.

An item takes its place among the rows in the order of the calls: any thread *announces* a draft, and the
sender *places* it when it has taken the rows that were logged before, which also tells the step that an item
without one belongs to. A placed item whose contents are durable at the daemon goes into the stream at
once; another waits apart, so that nothing behind it waits for a file.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tracker_protocol import limits


@dataclass(frozen=True)
class ContentReference:
    """A content that the daemon has: its digest's 32 bytes, its size, what the item calls it."""

    sha256: bytes
    size_bytes: int
    path: str


@dataclass(frozen=True)
class PlacedItem:
    """An item as the stream carries it."""

    kind: str
    key: str
    step: int
    automatic_step: bool
    time_ns: int
    document: str
    contents: tuple[ContentReference, ...]


@dataclass(eq=False)
class ItemDraft:
    """An item as it was logged. ``step``: None until it is placed, if the caller gave none.

    ``contents`` is None while they are on their way; whoever uploads them sets it, or ``failed``, before it
    tells.
    """

    kind: str
    key: str
    step: int | None
    time_ns: int
    document: str
    contents: tuple[ContentReference, ...] | None = ()
    automatic_step: bool = False
    failed: bool = False

    @property
    def size_bytes(self) -> int:
        """What it takes of the memory, about."""
        return len(self.document) + len(self.key) + limits.ITEM_KIND_MAX_BYTES

    def set_missing_step(self, step: int) -> None:
        """Give the draft ``step``, unless the caller gave one."""
        if self.step is None:
            self.step, self.automatic_step = step, True

    def placed(self) -> PlacedItem:
        """Return the item; the draft must have its step and its contents."""
        assert self.step is not None, "an item is placed before it is sent"
        assert self.contents is not None, "the contents are uploaded before the item is sent"
        return PlacedItem(
            self.kind, self.key, self.step, self.automatic_step, self.time_ns, self.document, self.contents
        )


class ItemQueue:
    """The items of one stream. ``announce`` is for any thread, the rest for the sender's."""

    def __init__(self) -> None:
        self.announced: deque[ItemDraft] = deque()
        self.recorded = True
        """Whether the daemon records this rank's items; what it does not want is let go unsent."""
        self._lock = threading.Lock()
        self._announced_bytes = 0
        self._waiting: dict[int, ItemDraft] = {}

    def announce(self, draft: ItemDraft) -> bool:
        """Queue ``draft`` behind the rows logged so far; False where there is no room for it."""
        with self._lock:
            if self._announced_bytes + draft.size_bytes > limits.CLIENT_ITEMS_BYTES:
                return False
            self._announced_bytes += draft.size_bytes
            self.announced.append(draft)
        return True

    def place(self, most: int, step: Callable[[], int], until_ns: int | None = None) -> list[PlacedItem]:
        """Place the next drafts, at most ``most``, announced no later than ``until_ns``.

        ``step()`` is what those without a step get. Returns what can go into the stream now.
        """
        ready = []
        while most and self.announced and (until_ns is None or self.announced[0].time_ns <= until_ns):
            most -= 1
            draft = self._next()
            if draft.failed:
                continue
            if draft.step is None:
                draft.set_missing_step(step())
            if draft.contents is None:
                self._waiting[id(draft)] = draft
            elif self.recorded:
                ready.append(draft.placed())
        return ready

    def _next(self) -> ItemDraft:
        with self._lock:
            draft = self.announced.popleft()
            self._announced_bytes -= draft.size_bytes
        return draft

    def complete(self, draft: ItemDraft) -> PlacedItem | None:
        """The contents of ``draft`` are durable; the item, unless it is still to be placed."""
        if self._waiting.pop(id(draft), None) is None or not self.recorded:
            return None
        return draft.placed()

    def give_up(self, draft: ItemDraft) -> None:
        """The contents of ``draft`` will not come."""
        self._waiting.pop(id(draft), None)
        with self._lock:
            if draft in self.announced:
                self.announced.remove(draft)
                self._announced_bytes -= draft.size_bytes

    @property
    def unfinished(self) -> list[ItemDraft]:
        """What is not in the stream yet."""
        return [*self._waiting.copy().values(), *self.announced.copy()]

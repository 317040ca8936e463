"""Items before they join the stream: tables, images, artifacts, histograms.

Items and rows keep the order of the calls. Any thread *announces* a draft. The sender *places* the draft once
it has removed the rows that were logged before from the buffer. Then it also knows the step of an item that
was logged without a step. A placed item joins the stream at once if its contents are durable at the daemon.
Otherwise it waits apart, so that nothing behind it waits for a file.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from tracker_client.values.tally import Room
from tracker_protocol import limits


@dataclass(frozen=True)
class ContentReference:
    """A content that the daemon has: the 32 bytes of its digest, its size, and its path in the item."""

    sha256: bytes
    size_bytes: int
    path: str


@dataclass(frozen=True)
class PlacedItem:
    """An item as the stream carries it. ``row`` is the number of its row, or None before the first row."""

    kind: str
    key: str
    step: int
    automatic_step: bool
    time_ns: int
    document: str
    contents: tuple[ContentReference, ...]
    row: int | None


@dataclass(eq=False)
class ItemDraft:
    """An item as it was logged.

    ``step`` is None until the item is placed, unless the caller gave a step; so is ``row``. ``contents`` is
    None until the contents are uploaded. The uploading thread sets ``contents`` or ``failed`` before it
    reports the draft as settled.
    """

    kind: str
    key: str
    step: int | None
    time_ns: int
    document: str
    contents: tuple[ContentReference, ...] | None = ()
    automatic_step: bool = False
    row: int | None = None
    failed: bool = False

    @property
    def size_bytes(self) -> int:
        """The approximate memory that the draft needs."""
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
            self.kind, self.key, self.step, self.automatic_step, self.time_ns, self.document, self.contents,
            self.row,
        )  # fmt: skip


class ItemQueue:
    """The items of one stream. Any thread may call ``announce``; only the sender's may call the rest.

    ``on_left_out`` receives the key of an item that the daemon does not record.
    """

    def __init__(self, on_left_out: Callable[[str], None] = lambda _: None) -> None:
        self._on_left_out = on_left_out
        self.announced: deque[ItemDraft] = deque()
        self.recorded = True
        """True if the daemon records this rank's items. Otherwise they are discarded unsent."""
        self._room = Room(limits.CLIENT_ITEMS_BYTES)
        self._waiting: dict[int, ItemDraft] = {}

    def announce(self, draft: ItemDraft) -> bool:
        """Queue ``draft`` behind the rows logged so far; return False if there is no room for the draft."""
        if not self._room.reserve(draft.size_bytes):
            return False
        self.announced.append(draft)
        return True

    def place(self, most: int, step: int, row: int | None, until_ns: int | None = None) -> list[PlacedItem]:
        """Place at most ``most`` of the next drafts, if they were announced no later than ``until_ns``.

        ``row`` is the number of the stream's newest row, and ``step`` the step for drafts without one.
        Returns the items that can join the stream now.
        """
        ready = []
        while most and self.announced and (until_ns is None or self.announced[0].time_ns <= until_ns):
            most -= 1
            draft = self._next()
            if draft.failed:
                continue
            draft.set_missing_step(step)
            draft.row = row
            if not self.recorded:
                self._on_left_out(draft.key)
            if draft.contents is None:
                self._waiting[id(draft)] = draft
            elif self.recorded:
                ready.append(draft.placed())
        return ready

    def _next(self) -> ItemDraft:
        draft = self.announced.popleft()
        self._room.release(draft.size_bytes)
        return draft

    def complete(self, draft: ItemDraft) -> PlacedItem | None:
        """Note that the contents of ``draft`` are durable; return the item if its draft is placed."""
        if self._waiting.pop(id(draft), None) is None or not self.recorded:
            return None
        return draft.placed()

    def give_up(self, draft: ItemDraft) -> None:
        """Discard ``draft``: its contents will not be uploaded."""
        self._waiting.pop(id(draft), None)
        if draft in self.announced:
            self.announced.remove(draft)
            self._room.release(draft.size_bytes)

    @property
    def unfinished(self) -> list[ItemDraft]:
        """The drafts that are not in the stream yet."""
        return [*self._waiting.copy().values(), *self.announced.copy()]

"""Care of contents: removes those that every backend has, and those whose item was never logged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable
from pathlib import Path

from tracker_daemon.contents.store import ContentStore, StoreTotals
from tracker_daemon.journal.access import JournalAccess
from tracker_daemon.recording.recorder import Submission
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.status.document import ContentsStatus
from tracker_protocol import limits

DIRECTORY = "contents"


def open_store(settings: Settings, state_directory: Path) -> ContentStore:
    """Return the content store of a state directory."""
    return ContentStore(
        state_directory / DIRECTORY,
        content_max_bytes=settings.content_max_bytes,
        contents_max_bytes=settings.contents_max_bytes,
    )


def note_journalled(store: ContentStore, submissions: Iterable[Submission]) -> None:
    """Note the contents of committed items: from now on the journal decides how long they are kept."""
    for submission in submissions:
        for item in submission.decoded.items if submission.decoded else ():
            store.mentioned({content.sha256 for content in item.contents})


class ContentCare:
    """Removes contents of ``store`` that nothing needs. On the event loop."""

    def __init__(self, store: ContentStore, on_journal: JournalAccess) -> None:
        self._store = store
        self._on_journal = on_journal
        self._next_s = 0.0
        self._removal: asyncio.Task[None] | None = None

    def status(self) -> ContentsStatus:
        """Return how much the store holds."""
        totals = self._store.totals()
        return ContentsStatus(count=totals.contents, bytes=totals.bytes, arriving_bytes=totals.arriving_bytes)

    def poll(self) -> None:
        """Start a removal in the background if the last one is CONTENT_CARE_S seconds ago."""
        idle = self._removal is None or self._removal.done()
        if idle and time.monotonic() >= self._next_s and self._store.totals() != StoreTotals():
            self._next_s = time.monotonic() + limits.CONTENT_CARE_S
            self._removal = asyncio.create_task(self.remove_unneeded())

    async def remove_unneeded(self) -> None:
        """Remove contents that no backend still needs and no client has announced an item for."""
        # In this order: an item that is committed after it is known to be expected no more has its use
        # in the journal when that is asked.
        unexpected = self._store.unexpected()
        needed = await self._on_journal(lambda journal: journal.content_uses.release())
        await asyncio.to_thread(self._store.remove, unexpected - needed)
        await asyncio.to_thread(self._store.remove_abandoned)

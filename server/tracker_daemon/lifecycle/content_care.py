"""Care of contents: what every backend has is removed, and what no item came for, after a while."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterable

from tracker_daemon.contents.store import ContentStore, StoreTotals
from tracker_daemon.ingest.uploads import UploadService
from tracker_daemon.journal.access import JournalAccess
from tracker_daemon.journal.store import Journal
from tracker_daemon.recording.recorder import Submission
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.status.document import ContentsStatus
from tracker_protocol import limits

DIRECTORY = "contents"


class ContentCare:
    """Owns the content store of a state directory. On the event loop, but for ``journalled``."""

    def __init__(self, settings: Settings, journal: Journal, on_journal: JournalAccess) -> None:
        self.store = ContentStore(
            journal.directory / DIRECTORY,
            content_max_bytes=settings.content_max_bytes,
            contents_max_bytes=settings.contents_max_bytes,
        )
        self.uploads = UploadService(self.store)
        self._on_journal = on_journal
        self._next_s = 0.0
        self._looking: asyncio.Task[None] | None = None

    def journalled(self, submissions: Iterable[Submission]) -> None:
        """Items may have been committed: their contents are the journal's to keep from now on."""
        for submission in submissions:
            for item in submission.decoded.items if submission.decoded else ():
                self.store.mentioned({content.sha256 for content in item.contents})

    def status(self) -> ContentsStatus:
        """What the store holds."""
        totals = self.store.totals()
        return ContentsStatus(count=totals.contents, bytes=totals.bytes, arriving_bytes=totals.arriving_bytes)

    def poll(self) -> None:
        """Every now and then, remove what is not needed any more; beside the event loop."""
        idle = self._looking is None or self._looking.done()
        if idle and time.monotonic() >= self._next_s and self.store.totals() != StoreTotals():
            self._next_s = time.monotonic() + limits.CONTENT_CARE_S
            self._looking = asyncio.create_task(self.remove_unneeded())

    async def remove_unneeded(self) -> None:
        """Remove contents that no backend still needs and no client has announced an item for."""
        # In this order: an item that is committed after it is known to be expected no more has its use
        # in the journal when that is asked.
        unexpected = self.store.unexpected()
        needed = await self._on_journal(lambda journal: journal.content_uses.release())
        await asyncio.to_thread(self.store.remove, unexpected - needed)
        await asyncio.to_thread(self.store.remove_abandoned)

"""Care of contents: removes those that no backend and no expected item needs."""

from __future__ import annotations

import asyncio
import time

from tracker_daemon.contents.store import ContentStore, StoreTotals
from tracker_daemon.journal.access import JournalAccess
from tracker_protocol import limits


class ContentCare:
    """Removes from ``store`` what nothing needs. Used on the event loop."""

    def __init__(self, store: ContentStore, on_journal: JournalAccess) -> None:
        self._store = store
        self._on_journal = on_journal
        self._next_s = 0.0
        self._removal: asyncio.Task[None] | None = None

    def poll(self) -> None:
        """Start a removal in the background if the last one is CONTENT_REMOVAL_INTERVAL_S seconds ago."""
        is_idle = self._removal is None or self._removal.done()
        if is_idle and time.monotonic() >= self._next_s and self._store.totals() != StoreTotals():
            self._next_s = time.monotonic() + limits.CONTENT_REMOVAL_INTERVAL_S
            self._removal = asyncio.create_task(self._remove_unneeded())

    async def remove_now(self) -> None:
        """Remove now what nothing needs, once a removal in progress has ended."""
        if self._removal is not None:
            await self._removal
        if self._store.totals() != StoreTotals():
            await self._remove_unneeded()

    async def _remove_unneeded(self) -> None:
        # In this order: an item may be committed after the store no longer expects it. The journal then
        # knows of its use by the time that it is asked.
        unexpected = self._store.unexpected()
        needed = await self._on_journal(lambda journal: journal.content_uses.release())
        await asyncio.to_thread(self._store.remove, unexpected - needed)
        await asyncio.to_thread(self._store.remove_abandoned)

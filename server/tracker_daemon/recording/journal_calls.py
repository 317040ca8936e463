"""Work on the journal for other threads, by the recorder, whose thread owns the journal."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import TypeVar

from tracker_daemon.journal.store import Journal
from tracker_daemon.recording.recorder import Recorder

T = TypeVar("T")


class JournalCalls:
    """The two kinds of access that :mod:`tracker_daemon.journal.access` names, through ``recorder``."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder

    def wait(self, work: Callable[[Journal], T]) -> T:
        """Run ``work`` in the next transaction and wait for its commit, on any thread but the recorder's."""
        return self._recorder.call(work).result()

    async def run(self, work: Callable[[Journal], T]) -> T:
        """Run ``work`` in the next transaction and await its commit, on the event loop."""
        return await asyncio.wrap_future(self._recorder.call(work))

    async def probe(self) -> None:
        """Return once the recorder has committed; never if the event loop or the journal hangs."""
        await self.run(lambda _: None)

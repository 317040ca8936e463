"""Backpressure: the daemon reads no further messages of clients while too much is uncommitted."""

from __future__ import annotations

import asyncio

from tracker_daemon.recording.recorder import Recorder
from tracker_protocol import limits


class Backpressure:
    """Lets callers wait until enough is committed. On the event loop."""

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._committed = asyncio.Event()

    async def wait(self) -> None:
        """Wait while more than UNCOMMITTED_BYTES_MAX bytes are uncommitted."""
        while self._recorder.pending_bytes > limits.UNCOMMITTED_BYTES_MAX:
            self._committed.clear()
            await self._committed.wait()

    def on_commit(self) -> None:
        """Let the waiting streams check again."""
        self._committed.set()

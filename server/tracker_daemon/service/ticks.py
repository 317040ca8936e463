"""The recorder's reports, passed from its thread to the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator, Sequence

from tracker_daemon.aggregation.values.batch import DecodedBatch
from tracker_daemon.aggregation.values.item import Item
from tracker_daemon.contents.store import ContentStore
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.recording.recorder import Submission
from tracker_daemon.service.stop_request import StopRequest

TickListener = Callable[[Sequence[LiveRun], frozenset[bytes]], None]
"""Called on the event loop after a commit, with the runs and the streams that have new durable data."""


class Ticks:
    """Receives the recorder's reports on its thread, and calls listeners on the event loop.

    The recorder is built from these methods, and most listeners are built from the recorder. So listeners
    subscribe later, before the recorder starts.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, contents: ContentStore, stop: StopRequest) -> None:
        self._loop = loop
        self._contents = contents
        self._stop = stop
        self._listeners: list[TickListener] = []

    def subscribe(self, listener: TickListener) -> None:
        """Call ``listener`` after each commit."""
        self._listeners.append(listener)

    def report_tick(self, runs: Sequence[LiveRun], submissions: Sequence[Submission]) -> None:
        """Pass a commit on to the listeners. On the recorder's thread."""
        self._note_contents(submissions)
        # The loop may be closed already when the last commits are reported.
        if not self._loop.is_closed():
            streams = frozenset(submission.stream for submission in submissions if submission.stream)
            self._loop.call_soon_threadsafe(self._call_listeners, runs, streams)

    def report_failure(self, error: BaseException) -> None:
        """Pass the recorder's failure on. On the recorder's thread."""
        if not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.fail, error)

    def _note_contents(self, submissions: Sequence[Submission]) -> None:
        """Note the contents of committed items: from now on the journal decides how long they are kept."""
        for submission in submissions:
            for item in _items_of(submission.decoded):
                self._contents.note_journalled({content.sha256 for content in item.contents})

    def _call_listeners(self, runs: Sequence[LiveRun], streams: frozenset[bytes]) -> None:
        for listener in self._listeners:
            listener(runs, streams)


def _items_of(batch: DecodedBatch | None) -> Iterator[Item]:
    """Yield the items of a rank's batch, or of a node's batch."""
    if batch is None:
        return
    yield from batch.items
    for _, part in batch.forwarded.parts if batch.forwarded is not None else ():
        yield from part.items

"""Artifacts on their way to the W&B SDK, which computes a digest of all their files before it takes one.

That takes a long while for large files, and is done on a thread of its own, so that rows go on meanwhile. An
artifact is logged by the delivery after it is ready, at the latest by that of the run's end, which waits.
What a process that dies has not logged is on the shelf, from which the next one logs all.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tracker_daemon.backends.wandb.items import UnusableItem, sdk_artifact

_WAIT_S = 1.0


class _Preparation:
    """One artifact that is kept at ``place``."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.done = threading.Event()
        self._artifact: Any = None
        self._error: Exception | None = None

    def prepare(self) -> None:
        """Have the SDK make its artifact of it; on the queue's thread."""
        try:
            self._artifact = sdk_artifact(self.place)
        # The thread's outermost frame: whatever the SDK raises is raised again in result().
        except Exception as error:  # noqa: BLE001
            self._error = error
        self.done.set()

    def result(self) -> Any:
        """The SDK's artifact.

        Raises:
            UnusableItem: the SDK makes none of it.
        """
        if self._error is not None:
            raise UnusableItem(f"W&B makes no artifact of it: {self._error}") from self._error
        return self._artifact


class ArtifactQueue:
    """Prepares artifacts in the order of ``put``; used by one thread. One for each session."""

    def __init__(self) -> None:
        self._pending: deque[_Preparation] = deque()
        self._work: SimpleQueue[_Preparation | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._known: set[Path] = set()

    def __contains__(self, place: Path) -> bool:
        """Whether what is kept there has been put as known, and maybe logged since."""
        return place in self._known

    def put(self, place: Path, *, known: bool = True) -> None:
        """Begin to prepare the artifact that is kept at ``place``; it is the only one there if ``known``."""
        if self._thread is None:
            # A daemon thread: what it computes is of no use to a process that is to end.
            self._thread = threading.Thread(target=self._prepare, name="wandb-artifacts", daemon=True)
            self._thread.start()
        preparation = _Preparation(place)
        if known:
            self._known.add(place)
        self._pending.append(preparation)
        self._work.put(preparation)

    def log_ready(self, log: Callable[[Any], None]) -> Iterator[tuple[Path, str]]:
        """Log those that are ready, in order; yield each that is of no use, with the reason."""
        while self._pending and self._pending[0].done.is_set():
            one = self._pending.popleft()
            try:
                log(one.result())
            except UnusableItem as error:
                yield one.place, str(error)

    def log_all(self, log: Callable[[Any], None], beat: Callable[[], None]) -> Iterator[tuple[Path, str]]:
        """Wait for all and log them as :meth:`log_ready` does; ``beat`` is called all along."""
        while self._pending:
            self._pending[0].done.wait(_WAIT_S)
            beat()
            yield from self.log_ready(log)

    def close(self) -> None:
        """Drop what is not logged; the thread ends after the artifact that it is at."""
        self._pending.clear()
        self._work.put(None)

    def _prepare(self) -> None:
        while (preparation := self._work.get()) is not None:
            preparation.prepare()

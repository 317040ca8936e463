"""Follows a CSV file that a daemon writes, and notes when each row is there."""

from __future__ import annotations

import csv
import threading
import time
from pathlib import Path
from types import TracebackType

from typing_extensions import Self

POLL_S = 0.02


class FollowedRows:
    """Polls ``path`` on a thread from the beginning to the end of the context."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._seen_at: list[float] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ended.set()
        self._thread.join()
        self._look()

    def latencies(self, passed: dict[int, float]) -> list[tuple[float, int]]:
        """Return for each row the seconds from the time of its step in ``passed``, and the step."""
        rows = list(csv.DictReader(self._path.read_text().splitlines()))
        steps = [int(row["step"]) for row in rows]
        return [(at - passed[step], step) for at, step in zip(self._seen_at[1:], steps, strict=True)]

    def _follow(self) -> None:
        while not self._ended.wait(POLL_S):
            self._look()

    def _look(self) -> None:
        if self._path.exists():
            now, lines = time.time(), self._path.read_bytes().count(b"\n")
            self._seen_at += [now] * (lines - len(self._seen_at))

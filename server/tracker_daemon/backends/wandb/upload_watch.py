"""The upload as the SDK's notes describe it: retries, failures and the server's answers.

The SDK reports a failed upload nowhere else than in the file ``logs/debug-internal.log`` of its directory.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracker_protocol import limits

_NOTES = Path("logs", "debug-internal.log")
_FATAL_LEVEL = "ERROR+4"


@dataclass(frozen=True, slots=True)
class UploadFault:
    """The end of an upload: the SDK's words, and the server's last HTTP status if there is one."""

    text: str
    status: int | None


@dataclass
class UploadWatch:
    """Reads the SDK's notes in a session's ``directory``, each time from the end of the last reading."""

    directory: Path
    status: int | None = None
    """The HTTP status of the last error that the server answered with."""
    fault: UploadFault | None = None
    """The reason why the SDK has given up the upload, if it has."""
    _retry: str = ""
    """The reason of the current retries, as of the last note."""
    _retrying_since_s: float = 0.0
    _offset: int = 0

    def look(self) -> UploadFault | None:
        """Read new notes; return the reason why the SDK has given up the upload, if it has."""
        for note in self._new_notes():
            self._note_progress(note)
            if note.get("level") == _FATAL_LEVEL and self.fault is None:
                self.fault = UploadFault(str(note.get("msg", "")), self.status)
        return self.fault

    def trouble(self) -> str:
        """Return the reason why the SDK has retried for a while without success; "" if it has not."""
        self.look()
        retried_s = time.monotonic() - self._retrying_since_s
        return self._retry if self._retry and retried_s >= limits.WANDB_TROUBLE_AFTER_S else ""

    def _note_progress(self, note: dict[str, Any]) -> None:
        """Note one request. A retried one has a number as status, or an error; a successful one "200 OK"."""
        status, error = note.get("status"), note.get("error")
        if isinstance(status, str) and status.startswith("2"):
            self._retry = ""
            return
        if isinstance(status, int):
            self.status = status
        if isinstance(status, int) or isinstance(error, str):
            if not self._retry:
                self._retrying_since_s = time.monotonic()
            self._retry = f"HTTP {status}" if isinstance(status, int) else str(error)

    def _new_notes(self) -> Iterator[dict[str, Any]]:
        try:
            with (self.directory / _NOTES).open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                note = json.loads(line)
            except ValueError:
                continue
            if isinstance(note, dict):
                yield note

"""The lane for files: delivers tables, images and artifacts to one backend, separately from its metrics.

When an item is delivered, its contents are copied to the lane's directory, as a backend expects them. They
are removed after the delivery. So a file of any size delays no metric.
"""

from __future__ import annotations

import hashlib
import shutil
import time
from collections import deque
from pathlib import Path

from tracker_client.staging.items import ContentReference
from tracker_client.staging.sources import Source, SourceUnusable
from tracker_client.transport.uploads import Upload, UploadProgress
from tracker_client.values.refusals import Refusals
from tracker_client.values.tally import Room, Tally
from tracker_daemon.files.content_files import content_path
from tracker_daemon.inprocess.outbox import item_of
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol import limits

_POLL_S = 0.005
"""The time between two looks at a content that is on its way from a device."""


class FilesOutbox:
    """The lane's outbox, with its contents in ``directory``; see :class:`MemoryOutbox`."""

    def __init__(self, directory: Path, refusals: Refusals) -> None:
        self._directory = directory
        self._refusals = refusals
        self._reserved = Room(limits.CLIENT_UPLOADS_WAITING_MAX)
        self._held_bytes = Tally()
        self._waiting: deque[Upload | bytes] = deque()
        # The fields below belong to the pump's thread alone.
        self._entry: OutboxEntry | None = None
        self._last = 0

    def reserve(self, upload: Upload) -> bool:
        """Reserve room for ``upload``, which the caller then adds; return False if there is none."""
        held_bytes = self._held_bytes.value
        if held_bytes and held_bytes + upload.held_bytes > limits.CLIENT_HELD_CONTENT_BYTES:
            return False
        if not self._reserved.reserve():
            return False
        self._held_bytes.add(upload.held_bytes)
        return True

    def add(self, logged: Upload | bytes) -> None:
        """Add an item, or the document of the run's end."""
        self._waiting.append(logged)

    def progress(self) -> UploadProgress:
        """Return the number of items that wait."""
        return UploadProgress(self._reserved.held)

    def read(self, after: int) -> list[OutboxEntry]:
        """Return the next entry after number ``after``, once its contents are in the directory."""
        if self._entry is not None and self._entry.number <= after:
            self._entry = None
            self.clear()
        while self._entry is None:
            if not self._waiting:
                return []
            logged = self._waiting.popleft()
            if isinstance(logged, bytes):
                self._entry = self._numbered(EntryKind.END, logged)
            else:
                self._entry = self._files(logged)
        return [self._entry]

    def clear(self) -> None:
        """Remove all contents."""
        shutil.rmtree(self._directory, ignore_errors=True)

    def _files(self, upload: Upload) -> OutboxEntry | None:
        draft = upload.draft
        try:
            draft.contents = tuple(self._copy(source) for source in upload.sources())
        except SourceUnusable as unusable:
            self._refusals.refuse(draft.key, str(unusable))
        except Exception as error:  # noqa: BLE001 - a source may be the user's own code
            self._refusals.refuse(draft.key, f"preparing it raised {error!r}; it is not recorded")
        else:
            return self._numbered(EntryKind.FILES, item_of(draft.placed()).to_bytes())
        finally:
            self._reserved.release()
            self._held_bytes.add(-upload.held_bytes)
        return None

    def _numbered(self, kind: EntryKind, payload: bytes) -> OutboxEntry:
        self._last += 1
        return OutboxEntry(self._last, kind, payload)

    def _copy(self, source: Source) -> ContentReference:
        """Copy a content to its path in the directory.

        Raises:
            SourceUnusable: the content cannot be read.
            OSError: the content cannot be written.
        """
        self._directory.mkdir(parents=True, exist_ok=True)
        temporary = self._directory / "new"
        size, digest = copy_source(source, temporary)
        target = content_path(self._directory, digest.hex())
        target.parent.mkdir(exist_ok=True)
        temporary.replace(target)
        return ContentReference(digest, size, source.path)


def copy_source(source: Source, target: Path) -> tuple[int, bytes]:
    """Write a source's bytes to ``target``, and close the source; return their number and their SHA-256.

    Raises:
        SourceUnusable: the bytes cannot be read.
        OSError: the bytes cannot be written.
    """
    digest = hashlib.sha256()
    while not source.ready():  # this thread has nothing else to do
        time.sleep(_POLL_S)
    try:
        size = source.open()
        with target.open("wb") as file:
            for chunk in source.chunks(0):
                digest.update(chunk)
                file.write(chunk)
        source.check()
    finally:
        source.close()
    return size, digest.digest()

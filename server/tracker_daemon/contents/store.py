"""The content store: files by the SHA-256 of their bytes, each stored once.

    <directory>/<first two digits>/<digest>     complete, checked and durable
    <directory>/partial/<digest>                the received part of one; an upload continues at its end

A complete content is never written again. From its upload until an item with this content is journalled, the
content is *expected* by the store. Then the journal knows how long the content is *needed*. Contents that are
neither expected nor needed are removed. If a client never sends the item, the content is expected for
``unused_s`` seconds.

Used from several threads at once. A lock guards the accounts; only removal does I/O under the lock.
"""

from __future__ import annotations

import hashlib
import os
import threading
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tracker_daemon.errors import ContentMismatch, ContentRefused, ContentStoreFull
from tracker_daemon.files.atomic_file import sync_directory, write_all
from tracker_daemon.files.content_files import content_path
from tracker_daemon.settings.definitions import Settings
from tracker_protocol import limits

PARTIAL = "partial"
_READ_BYTES = 1024 * 1024


@dataclass(slots=True)
class _Expectation:
    count: int
    until_s: float


@dataclass(frozen=True, slots=True)
class StoreTotals:
    """The store's contents: complete ones and their bytes, and the bytes of those still arriving."""

    contents: int = 0
    bytes: int = 0
    arriving_bytes: int = 0


class ContentStore:
    """The store in ``directory``, made with the first content. ``clock`` returns seconds since the epoch."""

    def __init__(
        self,
        directory: Path,
        *,
        content_max_bytes: int = limits.CONTENT_MAX_BYTES,
        contents_max_bytes: int = limits.CONTENTS_MAX_BYTES,
        unused_s: float = limits.CONTENT_UNUSED_S,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.directory = directory
        self._content_max_bytes = content_max_bytes
        self._contents_max_bytes = contents_max_bytes
        self._unused_s = unused_s
        self._clock = clock
        self._lock = threading.Lock()
        self._complete: dict[str, int] = {}
        self._arriving: dict[str, int] = {}
        self._expected: dict[str, _Expectation] = {}
        self._load()

    @staticmethod
    def from_settings(settings: Settings, state_directory: Path) -> ContentStore:
        """Return the content store of a state directory."""
        return ContentStore(
            state_directory / "contents",
            content_max_bytes=settings.content_max_bytes,
            contents_max_bytes=settings.contents_max_bytes,
        )

    def _load(self) -> None:
        """Load the store. Each content found is expected, since its item may not be journalled yet."""
        for path in self.directory.glob("[0-9a-f][0-9a-f]/*"):
            found = path.stat()
            self._complete[path.name] = found.st_size
            self._expected[path.name] = _Expectation(1, found.st_mtime + self._unused_s)
        for path in self.directory.glob(f"{PARTIAL}/*"):
            self._arriving[path.name] = path.stat().st_size

    def path(self, digest: str) -> Path:
        """Return the path of the content with that digest, stored or not."""
        return content_path(self.directory, digest)

    def totals(self) -> StoreTotals:
        """Return the store's present totals."""
        with self._lock:
            return StoreTotals(
                len(self._complete), sum(self._complete.values()), sum(self._arriving.values())
            )

    # ---- uploads ---------------------------------------------------------------------------------

    def expect(self, digest: str) -> bool:
        """Return True if the content is stored; then an item with it is expected from now on."""
        with self._lock:
            if digest not in self._complete:
                return False
            self._expect(digest)
            return True

    def _expect(self, digest: str) -> None:
        before = self._expected.get(digest)
        until_s = self._clock() + self._unused_s
        self._expected[digest] = _Expectation(before.count + 1 if before else 1, until_s)

    def receive(self, digest: str, size_bytes: int) -> IncomingContent:
        """Begin to receive a content, or continue with it. One call at a time for each digest.

        Raises:
            ContentRefused: the content is larger than ``content_max_bytes``.
            ContentStoreFull: the store has no room for the content now.
            OSError: the store cannot be written.
        """
        if size_bytes > self._content_max_bytes:
            raise ContentRefused(
                f"a content of {size_bytes} bytes is more than content_max_bytes = "
                f"{self._content_max_bytes}; raise that setting of the daemon"
            )
        with self._lock:
            others = sum(self._complete.values()) + sum(self._arriving.values())
            others -= self._arriving.get(digest, 0)
            if others + size_bytes > self._contents_max_bytes:
                raise ContentStoreFull(
                    f"the daemon holds {others} bytes of contents that are not delivered yet, and takes "
                    f"{self._contents_max_bytes} at most; it takes this one when backends have taken others, "
                    "or raise its setting contents_max_bytes"
                )
            self._arriving[digest] = size_bytes
        return IncomingContent(self, digest, size_bytes)

    def note_received(self, digest: str, size_bytes: int) -> None:
        """Note that a content is complete; for :class:`IncomingContent`."""
        with self._lock:
            self._arriving.pop(digest, None)
            self._complete[digest] = size_bytes
            self._expect(digest)

    def note_interrupted(self, digest: str, size_bytes: int) -> None:
        """Note the ``size_bytes`` of an ended reception's partial file; for :class:`IncomingContent`."""
        with self._lock:
            if size_bytes:
                self._arriving[digest] = size_bytes
            else:
                self._arriving.pop(digest, None)

    # ---- removal ---------------------------------------------------------------------------------

    def note_journalled(self, digests: Iterable[str]) -> None:
        """Note that an item with these contents may be journalled: one item fewer is expected for each."""
        with self._lock:
            for digest in digests:
                expectation = self._expected.get(digest)
                if expectation is not None:
                    expectation.count -= 1
                    if expectation.count <= 0:
                        del self._expected[digest]

    def unexpected(self) -> frozenset[str]:
        """Return the contents that are not expected. Ask the journal for needed ones *after* this call."""
        now_s = self._clock()
        with self._lock:
            for digest in [name for name, wait in self._expected.items() if wait.until_s <= now_s]:
                del self._expected[digest]
            return frozenset(self._complete.keys() - self._expected.keys())

    def remove(self, digests: Iterable[str]) -> int:
        """Remove contents, except those that are expected again meanwhile; return the number removed."""
        removed = 0
        for digest in digests:
            with self._lock:
                if digest in self._expected or self._complete.pop(digest, None) is None:
                    continue
                # Under the lock: an upload of the same content must not find it half removed.
                self.path(digest).unlink(missing_ok=True)
            removed += 1
        return removed

    def remove_abandoned(self) -> None:
        """Remove partial files that were not written to for as long as an item is expected."""
        for path in self.directory.glob(f"{PARTIAL}/*"):
            with suppress(FileNotFoundError):
                if self._clock() - path.stat().st_mtime > self._unused_s:
                    path.unlink()
                    self.note_interrupted(path.name, 0)


class IncomingContent:
    """One content as it arrives. After an error or a lost connection, ``stop`` keeps the received part.

    ``stop`` may be called while another thread writes: it waits for the end of that write.
    """

    def __init__(self, store: ContentStore, digest: str, size_bytes: int) -> None:
        self._store = store
        self._digest = digest
        self._size_bytes = size_bytes
        self._partial = store.directory / PARTIAL / digest
        self._descriptor = -1
        self._hash = hashlib.sha256()
        self._unsynced_bytes = 0
        self._ended = False
        self._lock = threading.Lock()
        self.offset = 0

    def open(self) -> int:
        """Open the partial file; return the offset of the next chunk."""
        with self._lock:
            return self._open()

    def _open(self) -> int:
        self._partial.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._descriptor = os.open(self._partial, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        while chunk := os.pread(self._descriptor, _READ_BYTES, self.offset):
            self._hash.update(chunk)
            self.offset += len(chunk)
        if self.offset > self._size_bytes:
            self._restart()
        return self.offset

    def write(self, chunk: bytes) -> None:
        """Write the next bytes.

        Raises:
            ContentMismatch: there are more bytes than announced.
        """
        with self._lock:
            self._write(chunk)

    def _write(self, chunk: bytes) -> None:
        if self.offset + len(chunk) > self._size_bytes:
            self._restart()
            raise ContentMismatch(f"more than the announced {self._size_bytes} bytes arrived")
        write_all(self._descriptor, chunk, self.offset)
        self._hash.update(chunk)
        self.offset += len(chunk)
        self._unsynced_bytes += len(chunk)
        if self._unsynced_bytes >= limits.CONTENT_UNSYNCED_MAX_BYTES:
            os.fsync(self._descriptor)
            self._unsynced_bytes = 0

    def complete(self) -> None:
        """Check the content, and move it durably to its place.

        Raises:
            ContentMismatch: it is not the announced content; it is removed.
        """
        with self._lock:
            self._complete()

    def _complete(self) -> None:
        if self.offset != self._size_bytes or self._hash.hexdigest() != self._digest:
            self._restart()
            raise ContentMismatch(
                "what arrived is not what was announced: the file was changed while it was read"
            )
        os.fsync(self._descriptor)
        place = self._store.path(self._digest)
        place.parent.mkdir(mode=0o700, exist_ok=True)
        self._partial.replace(place)
        sync_directory(place.parent)
        sync_directory(self._store.directory)
        self._store.note_received(self._digest, self._size_bytes)
        self._ended = True
        self._close()

    def stop(self) -> None:
        """End. The received part stays for the next upload of this content. Can be called twice."""
        with self._lock:
            self._stop()

    def _stop(self) -> None:
        if self._ended:
            return
        self._ended = True
        self._close()
        try:
            size_bytes = self._partial.stat().st_size
        except OSError:
            size_bytes = 0
        if not size_bytes:
            self._partial.unlink(missing_ok=True)
        self._store.note_interrupted(self._digest, size_bytes)

    def _restart(self) -> None:
        os.ftruncate(self._descriptor, 0)
        self._hash = hashlib.sha256()
        self.offset = 0

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

"""Sources: the bytes of a content, as they were at the call.

Contents that fit into memory are copied at the call. A larger file is opened at the call, so that it may be
replaced or deleted afterwards. A file that is written into before its upload is refused, since its bytes of
the call are lost. Files are read in chunks, once to compute the digest and once to send.
"""

from __future__ import annotations

import hashlib
import os
import stat
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

from tracker_protocol import limits


class SourceUnusable(Exception):
    """A content cannot be read; the message gives the reason."""


class Source(Protocol):
    """One content before its upload. One thread uses it."""

    path: str
    """The content's path in the item."""

    def ready(self) -> bool:
        """Return False while the content is on its way from a device; :meth:`open` must wait until then."""

    def open(self) -> int:
        """Make the content readable; return its size in bytes.

        Raises:
            SourceUnusable: the content cannot be read, or has changed since the call.
        """

    def chunks(self, offset: int) -> Iterator[bytes]:
        """Yield the content's bytes from ``offset`` on; raises as :meth:`open`."""

    def check(self) -> None:
        """Raise SourceUnusable if the content has changed since the call."""

    def close(self) -> None:
        """Release the content; further calls do nothing."""


def digest_of(source: Source) -> bytes:
    """Return the SHA-256 of an open source's bytes."""
    digest = hashlib.sha256()
    for chunk in source.chunks(0):
        digest.update(chunk)
    return digest.digest()


@dataclass
class HeldBytes:
    """Bytes that were copied at the call."""

    path: str
    data: bytes

    def ready(self) -> bool:
        """See :class:`Source`."""
        return True

    def open(self) -> int:
        """See :class:`Source`."""
        return len(self.data)

    def chunks(self, offset: int) -> Iterator[bytes]:
        """See :class:`Source`."""
        for at in range(offset, len(self.data), limits.CONTENT_CHUNK_BYTES):
            yield self.data[at : at + limits.CONTENT_CHUNK_BYTES]

    def check(self) -> None:
        """Do nothing: the bytes cannot change."""

    def close(self) -> None:
        """Release the bytes."""
        self.data = b""


@dataclass
class Encoded:
    """Bytes that ``encode`` makes, on the uploading thread, of a copy from the call.

    ``arrived()`` is False while that copy is on its way from a device.
    """

    path: str
    encode: Callable[[], bytes]
    arrived: Callable[[], bool] = lambda: True
    data: bytes | None = None

    def ready(self) -> bool:
        """See :class:`Source`."""
        return self.arrived()

    def open(self) -> int:
        """See :class:`Source`."""
        if self.data is None:
            self.data = self.encode()
        return len(self.data)

    def chunks(self, offset: int) -> Iterator[bytes]:
        """See :class:`Source`."""
        assert self.data is not None, "a source is read between open() and close()"
        yield from HeldBytes(self.path, self.data).chunks(offset)

    def check(self) -> None:
        """Do nothing: the bytes cannot change."""

    def close(self) -> None:
        """Release the bytes."""
        self.data = b""


class FileSource:
    """A regular file, as it was when this object was made.

    ``keep_open`` keeps the file open from then on, so that it may be replaced or deleted.

    Raises:
        SourceUnusable: the path is no regular file, or cannot be read.
    """

    def __init__(self, path: str, location: str, *, keep_open: bool) -> None:
        self.path = path
        self._descriptor = -1
        self._location = location
        self._version = self._open_checked(None)
        if not keep_open:
            self.close()

    @property
    def size_bytes(self) -> int:
        """The file's size at the call."""
        return self._version[0]

    def read(self) -> bytes:
        """Return all bytes, of a small file."""
        data = b"".join(self.chunks(0))
        self.check()
        return data

    def ready(self) -> bool:
        """See :class:`Source`."""
        return True

    def open(self) -> int:
        """See :class:`Source`."""
        if self._descriptor < 0:
            self._open_checked(self._version)
        self.check()
        return self.size_bytes

    def chunks(self, offset: int) -> Iterator[bytes]:
        """See :class:`Source`."""
        while offset < self.size_bytes:
            try:
                chunk = os.pread(
                    self._descriptor, min(limits.CONTENT_CHUNK_BYTES, self.size_bytes - offset), offset
                )
            except OSError as error:
                raise self._unreadable(error) from error
            if not chunk:
                raise self._changed()
            offset += len(chunk)
            yield chunk

    def check(self) -> None:
        """See :class:`Source`."""
        if _version(os.fstat(self._descriptor)) != self._version:
            raise self._changed()

    def __del__(self) -> None:
        self.close()  # a source that is discarded unread

    def close(self) -> None:
        """See :class:`Source`."""
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)

    def _open_checked(self, expected: tuple[int, int, int] | None) -> tuple[int, int, int]:
        try:
            if not stat.S_ISREG(os.stat(self._location).st_mode):  # noqa: PTH116 - the location stays a text
                raise self._irregular()
            # The file may have been replaced since. Without O_NONBLOCK, opening a FIFO waits for its writer.
            self._descriptor = os.open(self._location, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            found = os.fstat(self._descriptor)
        except OSError as error:
            raise self._unreadable(error) from error
        if not stat.S_ISREG(found.st_mode):
            self.close()
            raise self._irregular()
        if expected is not None and _version(found) != expected:
            self.close()
            raise self._changed()
        return _version(found)

    def _unreadable(self, error: OSError) -> SourceUnusable:
        return SourceUnusable(f"{self._location} cannot be read ({error.strerror}); it is not recorded")

    def _irregular(self) -> SourceUnusable:
        return SourceUnusable(f"{self._location} is no regular file; it is not recorded")

    def _changed(self) -> SourceUnusable:
        return SourceUnusable(
            f"{self._location} was written to before it was uploaded; it is not recorded. Log it once it is "
            "complete, and write the next one under another name or by renaming it into place"
        )


def _version(found: os.stat_result) -> tuple[int, int, int]:
    return found.st_size, found.st_mtime_ns, found.st_ino

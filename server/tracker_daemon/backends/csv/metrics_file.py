"""``metrics.csv`` as an append-only file that agrees with a committed position.

A *position* is (generation, header, offset). All bytes before the offset are committed. Bytes beyond the
offset are not committed. The next opening cuts them off, so their redelivery writes each record once.

A new column makes a new *generation* of the file:

1. ``.metrics.csv.generation-<n>`` is written, with the old lines widened by commas. The file and its
   directory entry are made durable.
2. The new position is committed.
3. The new file is renamed over ``metrics.csv``.

A crash before step 2 leaves a file of an uncommitted generation: the next opening removes it. A crash
between steps 2 and 3 leaves a complete file of the committed generation: the next opening renames it.

Rows are written only after a position was committed for their file. So if no position was ever committed, a
file that is found holds the rows of an earlier run, and those are kept.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from enum import Enum, auto
from pathlib import Path

import msgspec
import structlog

from tracker_daemon.backends.csv.format import Header, widened
from tracker_daemon.files.atomic_file import sync_directory, write_all
from tracker_protocol.run_files import METRICS_FILE

_GENERATION_PREFIX = f".{METRICS_FILE}.generation-"
_COPY_CHUNK_BYTES = 1024 * 1024
_HEADER_MAX_BYTES = 128 * 1024 * 1024

log = structlog.get_logger(__name__)


class Position(msgspec.Struct, frozen=True):
    """The committed part of the file: ``columns`` is its header, ``offset`` is in bytes."""

    generation: int = 0
    columns: tuple[str, ...] = ()
    offset: int = 0


class Opening(Enum):
    """The four ways to open the file, chosen by the file that is found."""

    CREATE = auto()
    """There is no file: the next rows begin one."""
    TRUNCATE = auto()
    """The file is the committed one: cut off the bytes beyond the offset."""
    APPEND = auto()
    """The file is a metrics file, but not as committed: continue at its end and cut nothing."""
    SET_ASIDE = auto()
    """The file is no metrics file: give it another name, and begin a new one."""


@dataclass(frozen=True, slots=True)
class FoundFile:
    """The file on disk; ``header`` is None if the first line is not a header that this module writes."""

    header: Header | None
    size: int
    line_ends_at_offset: bool


def choose_opening(found: FoundFile | None, committed: Position | None, *, may_truncate: bool) -> Opening:
    """Decide how the file is opened; :class:`MetricsCsv` acts on the decision."""
    if found is None:
        return Opening.CREATE
    if found.header is None:
        return Opening.SET_ASIDE
    if committed is None or not may_truncate:
        return Opening.APPEND
    as_committed = found.header.columns == committed.columns and found.line_ends_at_offset
    return Opening.TRUNCATE if as_committed else Opening.APPEND


class MetricsCsv:
    """The open file. After an error of any method, close it and open it again."""

    def __init__(self, directory: Path, committed: Position | None, *, may_truncate: bool) -> None:
        """Open the file in ``directory`` and make it agree with ``committed``.

        Raises:
            OSError: the file cannot be read or written.
        """
        self.path = directory / METRICS_FILE
        position = committed or Position()
        self._generation = position.generation
        self._header = Header(position.columns) if position.columns else Header()
        self._offset = 0
        self._descriptor = -1
        self._anchored = False
        self._finish_renames(committed)
        found = _examine(self.path, position.offset)
        opening = choose_opening(found, committed, may_truncate=may_truncate)
        try:
            self._open_as(opening, found, committed)
        except OSError:
            self.close()
            raise

    @property
    def header(self) -> Header:
        """The columns of the file, or of the file that the next rows begin."""
        return self._header

    @property
    def position(self) -> Position:
        """The position that includes all appended lines."""
        exists = self._descriptor >= 0
        return Position(self._generation, self._header.columns if exists else (), self._offset)

    def moved(self) -> bool:
        """Return True if the open file is no longer the one at its path: somebody removed or replaced it."""
        if self._descriptor < 0:
            return False
        try:
            return not os.path.samestat(self.path.stat(), os.fstat(self._descriptor))
        except FileNotFoundError:
            return True

    def prepare(self, header: Header, commit: Callable[[Position], None]) -> None:
        """Prepare for lines of ``header``, an extension of the file's header; commit if necessary."""
        if self._descriptor < 0 or header.columns != self._header.columns:
            self._begin_generation(header, commit)
        elif not self._anchored:
            commit(self.position)
        self._anchored = True

    def append(self, lines: list[bytes]) -> None:
        """Write ``lines`` after the last one and make them durable."""
        offset = self._offset
        for line in lines:
            offset = write_all(self._descriptor, line, offset)
        os.fsync(self._descriptor)
        self._offset = offset

    def close(self) -> None:
        """Close the file; a second call does nothing."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _finish_renames(self, committed: Position | None) -> None:
        for leftover in sorted(self.path.parent.glob(f"{_GENERATION_PREFIX}*")):
            wanted = committed is not None and leftover == self._generation_path(committed.generation)
            # A committed generation is complete; the size excludes a file that another program left.
            if committed is not None and wanted and leftover.stat().st_size == committed.offset:
                leftover.replace(self.path)
                sync_directory(self.path.parent)
            else:
                leftover.unlink()

    def _open_as(self, opening: Opening, found: FoundFile | None, committed: Position | None) -> None:
        if opening is Opening.SET_ASIDE:
            self._set_aside()
        if found is None or found.header is None:
            if committed is not None and committed.offset:
                log.warning("metrics file is missing; a new one is begun", path=str(self.path))
            return
        self._descriptor = os.open(self.path, os.O_RDWR | os.O_CLOEXEC)
        if opening is Opening.TRUNCATE and committed is not None:
            os.ftruncate(self._descriptor, committed.offset)
            self._offset, self._anchored = committed.offset, True
            return
        self._header = found.header
        self._offset = self._fresh_line(found.size)
        if committed is not None:
            log.warning(
                "metrics file is not as committed; new rows are appended at its end",
                path=str(self.path),
                size_bytes=found.size,
                committed_bytes=committed.offset,
            )

    def _fresh_line(self, size: int) -> int:
        """End the last line if a crash cut it short; return the offset of the next line."""
        if os.pread(self._descriptor, 1, size - 1) == b"\n":
            return size
        return write_all(self._descriptor, b"\n", size)

    def _set_aside(self) -> None:
        number = 1
        while (aside := self.path.with_name(f"metrics.found-{number}.csv")).exists():
            number += 1
        self.path.rename(aside)
        sync_directory(self.path.parent)
        log.warning("a file that is no metrics file was renamed", path=str(self.path), now=str(aside))

    def _generation_path(self, generation: int) -> Path:
        return self.path.with_name(f"{_GENERATION_PREFIX}{generation}")

    def _begin_generation(self, header: Header, commit: Callable[[Position], None]) -> None:
        generation = self._generation + 1
        new_path = self._generation_path(generation)
        flags = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC
        descriptor = os.open(new_path, flags, 0o666)
        with ExitStack() as undo:
            # After an error only the descriptor is closed; the next opening decides about the file.
            undo.callback(os.close, descriptor)
            offset = self._write_widened(descriptor, header)
            os.fsync(descriptor)
            sync_directory(self.path.parent)
            commit(Position(generation, header.columns, offset))
            new_path.replace(self.path)
            sync_directory(self.path.parent)
            undo.pop_all()
        self.close()
        self._descriptor = descriptor
        self._generation, self._header, self._offset = generation, header, offset

    def _write_widened(self, descriptor: int, header: Header) -> int:
        """Write ``header`` and the old lines below it, in chunks; return the size in bytes."""
        offset = write_all(descriptor, header.line(), 0)
        if self._descriptor < 0:
            return offset
        columns = len(header) - len(self._header)
        read_from = len(self._header.line())
        while read_from < self._offset:
            size = min(_COPY_CHUNK_BYTES, self._offset - read_from)
            chunk = os.pread(self._descriptor, size, read_from)
            if not chunk:
                raise OSError(f"{self.path} became shorter while it was read")
            read_from += len(chunk)
            offset = write_all(descriptor, widened(chunk, columns), offset)
        return offset


def _examine(path: Path, offset: int) -> FoundFile | None:
    """Examine the file; return None if there is none, or an empty one."""
    try:
        with path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size == 0:
                return None
            first_line = file.readline(_HEADER_MAX_BYTES)
            ends_line = 0 < offset <= size and os.pread(file.fileno(), 1, offset - 1) == b"\n"
            return FoundFile(Header.parse(first_line), size, ends_line)
    except FileNotFoundError:
        return None

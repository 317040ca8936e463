"""Durable changes to a directory: a file appears whole or not at all, and survives a crash."""

from __future__ import annotations

import os
from pathlib import Path


def sync_directory(directory: Path) -> None:
    """Make the directory's entries durable: a rename is on disk only after this."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_all(descriptor: int, data: bytes | memoryview, offset: int) -> int:
    """Write all of ``data`` at ``offset``; return the offset after it."""
    rest = memoryview(data)
    while rest:
        written = os.pwrite(descriptor, rest, offset)
        offset += written
        rest = rest[written:]
    return offset


def replace_file(path: Path, data: bytes) -> None:
    """Put ``data`` in place of ``path`` in one step, durably."""
    temporary = path.with_name(f".{path.name}.new")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o666)
    try:
        write_all(descriptor, data, 0)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    temporary.replace(path)
    sync_directory(path.parent)


def create_exclusively(path: Path, data: bytes) -> bool:
    """Create ``path`` with ``data``, durably; return False if it exists already, whatever its data."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    except FileExistsError:
        return False
    try:
        write_all(descriptor, data, 0)
        os.fsync(descriptor)
    except OSError:
        path.unlink(missing_ok=True)  # An empty file would look like another owner's for ever.
        raise
    finally:
        os.close(descriptor)
    sync_directory(path.parent)
    return True

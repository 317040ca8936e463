"""The manifest of a run's directory, ``.tracker-run``: the run, its own files, and if it may be moved.

It has JSON objects, one a line, which are only ever added and are durable at once. The first line is the
header. The later lines, in order, say

* ``{"files": […]}``: further files of the run;
* ``{"closed": true}`` or ``false``: nothing more will be written to the directory, or something may be;
* ``{"moving_to": "runs/…"}``: the files are on their way there (see ``run_move``);
* ``{"wrote": {file: digest}}``: the SHA-256 of a content that the run is about to give a file;
* ``{"attempt": n}``: an attempt of a script without a daemon;
* ``{"tags": […]}``: the tags that a user has given the run, all of them;
* ``run``, ``backend`` and ``ended``: see ``run_story``.

The manifest appears at once, complete with its header, and has one winner.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tracker_daemon.files.atomic_file import create_exclusively, sync_directory
from tracker_protocol.run_files import MANIFEST_FILE, manifest_lines

DAEMON = "daemon"
SCRIPT = "script"
"""The two writers of a run's files: a daemon, or the script's own process."""


@dataclass(frozen=True, slots=True)
class Header:
    """The first line of a manifest: the run that the directory belongs to."""

    run_id: str
    name: str
    """The name of the run's directory below ``runs``, where the run may be moved later."""
    project: str = ""
    writer: str = DAEMON
    directory_id: str = field(default_factory=lambda: secrets.token_hex(8))
    """Tells this directory from any other: a moved directory keeps it."""

    def line(self) -> bytes:
        """Return the header as a line."""
        fields = {name: getattr(self, name) for name in self.__slots__}
        return json.dumps(fields).encode() + b"\n"


@dataclass(frozen=True, slots=True)
class Manifest:
    """A manifest as it was read. ``header`` is None if its first line is not a header."""

    header: Header | None
    files: frozenset[str] = frozenset()
    closed: bool = False
    moving_to: str = ""
    wrote: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By file: the digests of all contents that the run gave it; of other files the content is not noted."""
    attempt: int = 0

    @property
    def run_id(self) -> str | None:
        """The run's id; None without a header."""
        return None if self.header is None else self.header.run_id

    @staticmethod
    def read_header(directory: Path) -> Header | None:
        """Return the header of the manifest in ``directory``; None without a readable one.

        Raises:
            OSError: the manifest cannot be read.
        """
        try:
            with (directory / MANIFEST_FILE).open("rb") as file:
                found = json.loads(file.readline())
        except (FileNotFoundError, NotADirectoryError, ValueError):
            return None
        return _header_of(found) if isinstance(found, dict) else None

    @staticmethod
    def read(directory: Path) -> Manifest | None:
        """Return the manifest in ``directory``; None if there is none.

        Raises:
            OSError: the manifest cannot be read.
        """
        try:
            lines = list(manifest_lines(directory))
        except (FileNotFoundError, NotADirectoryError):
            return None
        header = _header_of(lines[0]) if lines else None
        said: dict[str, Any] = {}
        wrote: dict[str, frozenset[str]] = {}
        for line in lines[1:]:
            said |= line
            for file, digest in line.get("wrote", {}).items():
                wrote[file] = wrote.get(file, frozenset()) | {digest}
        return Manifest(
            header,
            frozenset(name for line in lines for name in line.get("files", ())),
            closed=bool(said.get("closed")),
            moving_to=str(said.get("moving_to") or ""),
            wrote=wrote,
            attempt=int(said.get("attempt", 0)),
        )


def create_manifest(directory: Path, header: Header, files: Iterable[str] = ()) -> bool:
    """Create the manifest of ``directory``, which names ``files``; return False if there is one already.

    Raises:
        OSError: the directory cannot be written.
    """
    path = directory / MANIFEST_FILE
    draft = path.with_name(f"{MANIFEST_FILE}-{header.directory_id}.new")
    begin = header.line() + json.dumps({"files": sorted(files)}).encode() + b"\n"
    descriptor = os.open(draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_CLOEXEC, 0o666)
    try:
        _append(descriptor, begin)
        os.fsync(descriptor)
        os.link(draft, path)
    except FileExistsError:
        return False
    except PermissionError:  # a file system without hard links: then a crash may leave an empty manifest
        return create_exclusively(path, begin)
    finally:
        os.close(descriptor)
        draft.unlink(missing_ok=True)
    sync_directory(directory)
    return True


def add_to_manifest(directory: Path, **said: Any) -> None:
    """Add a line to the manifest of ``directory``, durably.

    Raises:
        OSError: there is no manifest, or it cannot be written.
    """
    line = json.dumps(said).encode() + b"\n"
    descriptor = os.open(directory / MANIFEST_FILE, os.O_RDWR | os.O_CLOEXEC | os.O_APPEND)
    try:
        size = os.fstat(descriptor).st_size
        whole = not size or os.pread(descriptor, 1, size - 1) == b"\n"
        _append(descriptor, line if whole else b"\n" + line)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def add_files(directory: Path, files: Iterable[str]) -> None:
    """Name further files of the run, before they are made; raises as :func:`add_to_manifest`."""
    add_to_manifest(directory, files=sorted(files))


def _append(descriptor: int, data: bytes) -> None:
    rest = memoryview(data)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _header_of(line: dict[str, Any]) -> Header | None:
    names = Header.__slots__
    if not all(isinstance(line.get(name), str) for name in names):
        return None
    return Header(**{name: line[name] for name in names})

"""Artifacts: files and directories, as the contents of one item.

A single file is taken as it is at the call (see ``sources``). A directory is read when its turn to be
uploaded comes, with all that is below it: links to files are followed, links to directories are not, and what
is no regular file or cannot be read is left out with a warning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tracker_client.staging.sources import FileSource, HeldBytes, Source, SourceUnusable
from tracker_client.values.refusals import Refusals
from tracker_protocol import limits

_NAMED_MAX = 5
CONTENT_BYTES = 64
"""What a content takes of an item's message beside its path."""


@dataclass(frozen=True)
class Directory:
    """A directory that is walked when it is uploaded."""

    location: str
    label: str
    refusals: Refusals
    left_out: list[str] = field(default_factory=list, init=False)
    """What is left out, each with its reason."""

    def sources(self) -> Iterator[Source]:
        """Its files; raises SourceUnusable where there are too many or none."""
        files = sorted(self._files(self.location, ""))
        weight = sum(len(path.encode()) + CONTENT_BYTES for path, _ in files)
        if len(files) > limits.CONTENTS_PER_ITEM_MAX or weight > limits.ITEM_MAX_BYTES:
            raise SourceUnusable(
                f"{self.location} has {len(files)} files, more than an artifact may have; pack them into "
                "an archive"
            )
        found = 0
        for path, location in files:
            try:
                source = FileSource(path, location, keep_open=False)
            except SourceUnusable as error:
                self.left_out.append(str(error))
                continue
            found += 1
            yield source
        self._tell()
        if not found:
            raise SourceUnusable(f"{self.location} has no files; it is not recorded")

    def _files(self, location: str, prefix: str) -> Iterator[tuple[str, str]]:
        try:
            with os.scandir(location) as entries:
                found = list(entries)
        except OSError as error:
            self.left_out.append(f"{location} cannot be read ({error.strerror})")
            return
        for entry in found:
            path = prefix + _valid(entry.name)
            if entry.is_dir(follow_symlinks=False):
                yield from self._files(entry.path, path + "/")
            elif entry.is_dir():
                self.left_out.append(f"{entry.path} is a link to a directory")
            elif len(path.encode()) > limits.CONTENT_PATH_MAX_BYTES:
                self.left_out.append(f"{entry.path} has too long a path")
            else:
                yield path, entry.path

    def _tell(self) -> None:
        """One warning that names them: of their own they could be as many as the directory has files."""
        if self.left_out:
            more = f"; and {len(self.left_out) - _NAMED_MAX} more" if len(self.left_out) > _NAMED_MAX else ""
            named = "; ".join(self.left_out[:_NAMED_MAX])
            self.refusals.warn_once(self.label, f"parts of the artifact are left out: {named}{more}")


def artifact_file(location: str, *, keep_open: bool) -> tuple[Source, int]:
    """A single file as it is now, and the bytes of memory that it holds until it is uploaded."""
    source = FileSource(_valid(os.path.basename(location)) or "file", location, keep_open=True)  # noqa: PTH119 - a text stays one
    if source.size_bytes <= limits.FILE_SNAPSHOT_BYTES:
        try:
            data = source.read()
        finally:
            source.close()
        return HeldBytes(source.path, data), len(data)
    if not keep_open:
        source.close()
    return source, 0


def location_of(path: Any) -> str:
    """``path`` as a text.

    Raises:
        SourceUnusable: it is no path.
    """
    try:
        return os.path.abspath(os.path.expanduser(os.fsdecode(path)))  # noqa: PTH100, PTH111 - a text stays one
    except (TypeError, ValueError) as error:
        raise SourceUnusable(f"a {type(path).__name__} is no path; it is not recorded") from error


def _valid(name: str) -> str:
    """A file's name as UTF-8 can carry it; distinct names stay distinct."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode(errors="backslashreplace")
    return name

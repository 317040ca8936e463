"""Artifacts: files and directories, as the contents of one item.

A single file is taken as it is at the call (``staging.sources``). A directory is read when its upload begins,
with all files below it except the product's own (``product_files``). Links to files are followed, links to
directories are not. An entry that is no regular file, or cannot be read, is left out with a warning.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from tracker_client.media.product_files import Within, is_in_state_directory, logged
from tracker_client.staging.sources import FileSource, HeldBytes, Source, SourceUnusable
from tracker_client.values.refusals import Refusals
from tracker_protocol import limits

_NAMED_MAX = 5
CONTENT_BYTES = 64
"""The bytes that one content takes in an item's message, beside its path."""


@dataclass(frozen=True)
class Directory:
    """A directory whose files are listed when the upload begins."""

    location: str
    label: str
    refusals: Refusals
    left_out: list[str] = field(default_factory=list, init=False)
    """The entries that are left out, each with its reason."""

    def sources(self) -> Iterator[Source]:
        """Yield the files of the directory.

        Raises:
            SourceUnusable: there are more files than one item may have, or none.
        """
        files = self.files()
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
        self._warn_of_left_out()
        if not found:
            raise SourceUnusable(f"{self.location} has no files; it is not recorded")

    def files(self) -> list[tuple[str, str]]:
        """Return the files of the directory, sorted: the path within the directory, and the whole path.

        Raises:
            SourceUnusable: the directory is a daemon's own.
        """
        check_not_ours(self.location)
        return sorted(self._files(logged(self.location), ""))

    def _files(self, within: Within, prefix: str) -> Iterator[tuple[str, str]]:
        try:
            with os.scandir(within.location) as entries:
                found = [entry for entry in entries if not within.leaves_out(entry)]
        except OSError as error:
            self.left_out.append(f"{within.location} cannot be read ({error.strerror})")
            return
        for entry in found:
            path = prefix + _valid(entry.name)
            if entry.is_dir(follow_symlinks=False):
                yield from self._files(within.entered(entry.name), path + "/")
            elif entry.is_dir():
                self.left_out.append(f"{entry.path} is a link to a directory")
            elif len(path.encode()) > limits.CONTENT_PATH_MAX_BYTES:
                self.left_out.append(f"{entry.path} has too long a path")
            else:
                yield path, entry.path

    def _warn_of_left_out(self) -> None:
        """Warn once for all entries that are left out: there may be as many as the directory has files."""
        if self.left_out:
            more = f"; and {len(self.left_out) - _NAMED_MAX} more" if len(self.left_out) > _NAMED_MAX else ""
            named = "; ".join(self.left_out[:_NAMED_MAX])
            self.refusals.warn_once(self.label, f"parts of the artifact are left out: {named}{more}")


def artifact_file(location: str, *, keep_open: bool) -> tuple[Source, int]:
    """Take a single file as it is now; return its source, and the bytes of memory it needs until its upload.

    A file up to FILE_SNAPSHOT_BYTES is read now. ``keep_open``: keep a larger file open until its upload.

    Raises:
        SourceUnusable: the file cannot be read.
    """
    check_not_ours(location)
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


def check_not_ours(location: str) -> None:
    """Raise SourceUnusable if the path is a daemon's state directory, or in one."""
    if is_in_state_directory(location):
        raise SourceUnusable(f"{location} is a daemon's own, with its token; it is not recorded")


def location_of(path: Any) -> str:
    """Return ``path`` as an absolute path.

    Raises:
        SourceUnusable: ``path`` is no path.
    """
    try:
        return os.path.abspath(os.path.expanduser(os.fsdecode(path)))  # noqa: PTH100, PTH111 - a text stays one
    except (TypeError, ValueError) as error:
        raise SourceUnusable(f"a {type(path).__name__} is no path; it is not recorded") from error
    except FileNotFoundError:
        raise SourceUnusable(
            f"{path} is relative to the working directory, and that has been deleted; it is not recorded"
        ) from None


def _valid(name: str) -> str:
    """Return a file's name as valid UTF-8; distinct names stay distinct."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return os.fsencode(name).decode(errors="backslashreplace")
    return name

"""The files of an item, in a run's directory or at the run's place in a store.

<key>.csv                           a table; logged again, it replaces the earlier file
images/<key>.<step>.<n>.<type>      an image; n is the entry's number; its caption is in a .txt file
images/<key>.<step>.<n>.<i>.<type>  the i-th of several images of one entry, or of a table's images
artifacts/<label>/<path>            an artifact's files; logged again, they are added to the earlier ones

A table's content is JSON: ``{"columns": [...], "data": [[...], ...]}``. A cell that is an image is an object
``{"image": i, "caption": ...}``: the item's content i, from 1. In the table's file such a cell is the path of
the image's file, from the run's place.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tracker_daemon.aggregation.values.item import Content, Item
from tracker_daemon.backends.decoding import read_item
from tracker_daemon.backends.item_names import hashed_name, safe_name
from tracker_daemon.errors import PoisonEntry
from tracker_daemon.files.atomic_file import replace_file
from tracker_daemon.files.content_files import content_path, place_copy
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

PutContent = Callable[[Path, Path], None]
"""Puts the content at the first path, in the daemon's store, to the second path."""

ClaimFiles = Callable[[Sequence[str]], list[Path]]
"""Returns the path of each file that is about to be written, given by its path within the directory."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The subdirectory of each kind of item, below the run's place."""

    tables: str = ""
    images: str = "images"
    artifacts: str = "artifacts"


@dataclass(frozen=True, slots=True)
class ItemFile:
    """One file: its path, and its source: either a content of the store or ``data``."""

    path: PurePosixPath
    content: Content | None = None
    data: Callable[[], bytes] | None = None


NameOf = Callable[[str, PurePosixPath, str], PurePosixPath]
"""Returns the path of a name in a directory, with a suffix."""


def named(name: str, directory: PurePosixPath, suffix: str) -> PurePosixPath:
    """Return the path of a safe name for ``name`` in ``directory``, with ``suffix``."""
    return directory / f"{safe_name(name)}{suffix}"


def files_of(
    item: Item, number: int, contents: Path, layout: Layout, name_of: NameOf = named
) -> Iterator[ItemFile]:
    """Yield the files of an item; none if its kind is unknown here.

    ``number`` is the number of the item's entry, ``contents`` the directory of the content store. ``name_of``
    gives the paths of tables and artifacts.
    """
    if item.kind == "table":
        images = _image_files(item, number, layout, item.contents[1:])
        yield from images
        shown = {at: str(image.path) for at, image in enumerate(images, 1)}
        path = name_of(item.key, PurePosixPath(layout.tables), ".csv")
        yield ItemFile(path, data=lambda: table_csv(*read_table(contents, item.contents[0]), shown))
    elif item.kind == "image":
        images = _image_files(item, number, layout, item.contents)
        for image, caption in zip(images, captions_of(item), strict=True):
            yield image
            if caption:
                yield ItemFile(image.path.with_suffix(".txt"), data=str(caption).encode)
    elif item.kind == "artifact":
        directory = name_of(item.key, PurePosixPath(layout.artifacts), "")
        for content in item.contents:
            yield ItemFile(directory / content.path, content=content)


def _image_files(item: Item, number: int, layout: Layout, images: Sequence[Content]) -> list[ItemFile]:
    stem = f"{safe_name(item.key)}.{item.step}.{number}"
    is_one = item.kind == "image" and len(images) == 1
    place = PurePosixPath(layout.images)
    return [
        ItemFile(
            place / f"{stem}{'' if is_one else f'.{at}'}{PurePosixPath(content.path).suffix}",
            content=content,
        )
        for at, content in enumerate(images, 1)
    ]


def captions_of(item: Item) -> list[str | None]:
    """Return the caption of each image of an item, None for an image without one."""
    document = document_of(item)
    captions = document.get("captions") or [document.get("caption")]
    return [*captions, *[None] * len(item.contents)][: len(item.contents)]


def document_of(item: Item) -> dict[str, Any]:
    """Decode the item's document, which is a JSON object: the daemon has checked that on arrival."""
    document: dict[str, Any] = json.loads(item.document)
    return document


def stored_content(contents: Path, content: Content) -> Path:
    """Return the path of a content in the store, whose directory is ``contents``.

    Raises:
        PoisonEntry: the store does not hold the content, or no longer.
    """
    path = content_path(contents, content.sha256)
    if not path.exists():
        raise PoisonEntry(f"the content {path.name} is not in the daemon's store; log it again")
    return path


def read_table(contents: Path, content: Content) -> tuple[list[str], list[list[Any]]]:
    """Read the columns and the rows of a table's content.

    Raises:
        PoisonEntry: the content is missing, or is no table.
    """
    path = stored_content(contents, content)
    try:
        table = json.loads(path.read_bytes())
        return list(table["columns"]), list(table["data"])
    except (ValueError, KeyError, TypeError) as error:
        raise PoisonEntry(f"{path} holds no table: {error!r}") from error


def image_of(cell: Any) -> int | None:
    """Return the number of the content that a table's cell shows; None if the cell is no image."""
    found = cell.get("image") if isinstance(cell, dict) else None
    return found if isinstance(found, int) else None


def table_csv(columns: list[str], rows: list[list[Any]], images: Mapping[int, str]) -> bytes:
    """Format a table as CSV in UTF-8; None becomes an empty field, an image its path of ``images``."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    for row in rows:
        shown = [(cell, image_of(cell)) for cell in row]
        writer.writerow([cell if image is None else images.get(image) for cell, image in shown])
    return text.getvalue().encode(errors="backslashreplace")


def place_link(content: Path, target: Path) -> None:
    """Put a symbolic link to ``content`` at ``target``, for a directory that is read and then removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(content)


class FileItems:
    """Writes items into ``directory``. Each file is written durably in one step, so writing it again is safe.

    ``put_content`` puts a content of the store to its place; the default copies it. ``claim`` chooses the
    paths of the files; the default takes them as they are.
    """

    def __init__(
        self,
        directory: Path,
        contents: Path,
        layout: Layout | None = None,
        put_content: PutContent = place_copy,
        claim: ClaimFiles | None = None,
    ) -> None:
        self.directory = directory
        self._contents = contents
        self._layout = layout or Layout()
        self._put_content = put_content
        self._claim = claim or (lambda files: [directory / file for file in files])

    def store(self, entry: OutboxEntry) -> int:
        """Write the files of a FILES entry, and none for another kind; return their number.

        Raises:
            PoisonEntry: the entry holds no readable item, or a content is missing.
            OSError: the directory cannot be written.
        """
        if entry.kind is not EntryKind.FILES:
            return 0
        item = read_item(entry)
        files = list(files_of(item, entry.number, self._contents, self._layout, self._free_name))
        targets = self._claim([str(file.path) for file in files])
        for file, target in zip(files, targets, strict=True):
            self._write(file, target)
        return len(files)

    def _free_name(self, name: str, directory: PurePosixPath, suffix: str) -> PurePosixPath:
        """Return the path of ``name``; with a hash if another name differs from it by case alone."""
        path = named(name, directory, suffix)
        place = self.directory / directory
        others = (found.name for found in place.iterdir()) if place.is_dir() else ()
        taken = any(other != path.name and other.lower() == path.name.lower() for other in others)
        return directory / f"{hashed_name(name)}{suffix}" if taken else path

    def _write(self, file: ItemFile, target: Path) -> None:
        if file.content is not None:
            self._put_content(stored_content(self._contents, file.content), target)
        elif file.data is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(target, file.data())

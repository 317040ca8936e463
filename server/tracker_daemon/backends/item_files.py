"""The files of an item, in a run's directory or at the run's place in a store.

<key>.csv                       a table; logged again, it replaces the earlier file
images/<key>.<step>.<n>.<type>  an image; n is the entry's number; a caption lies beside it, in a .txt file
artifacts/<label>/<path>        an artifact's files; logged again, they are added to the earlier ones
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tracker_daemon.aggregation.values.item import Content, Item
from tracker_daemon.backends.decoding import read_item
from tracker_daemon.backends.item_names import safe_name
from tracker_daemon.errors import PoisonEntry
from tracker_daemon.files.atomic_file import replace_file
from tracker_daemon.files.content_files import content_path, place_copy
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

PutContent = Callable[[Path, Path], None]
"""Puts the content at the first path, in the daemon's store, to the second path."""


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


def files_of(item: Item, number: int, contents: Path, layout: Layout) -> Iterator[ItemFile]:
    """Yield the files of an item; none if its kind is unknown here.

    ``number`` is the number of the item's entry, ``contents`` the directory of the content store.
    """
    if item.kind == "table":
        table = item.contents[0]
        path = PurePosixPath(layout.tables) / f"{safe_name(item.key)}.csv"
        yield ItemFile(path, data=lambda: table_csv(*read_table(contents, table)))
    elif item.kind == "image":
        image = item.contents[0]
        images, name = PurePosixPath(layout.images), f"{safe_name(item.key)}.{item.step}.{number}"
        yield ItemFile(images / f"{name}{PurePosixPath(image.path).suffix}", content=image)
        caption = document_of(item).get("caption")
        if caption:
            yield ItemFile(images / f"{name}.txt", data=str(caption).encode)
    elif item.kind == "artifact":
        directory = PurePosixPath(layout.artifacts) / safe_name(item.key)
        for content in item.contents:
            yield ItemFile(directory / content.path, content=content)


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


def table_csv(columns: list[str], rows: list[list[Any]]) -> bytes:
    """Format a table as CSV in UTF-8; None becomes an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")


def place_link(content: Path, target: Path) -> None:
    """Put a symbolic link to ``content`` at ``target``, for a directory that is read and then removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    target.symlink_to(content)


class FileItems:
    """Writes items into ``directory``. Each file is written durably in one step, so writing it again is safe.

    ``put_content`` puts a content of the store to its place; the default copies it.
    """

    def __init__(
        self,
        directory: Path,
        contents: Path,
        layout: Layout | None = None,
        put_content: PutContent = place_copy,
    ) -> None:
        self.directory = directory
        self._contents = contents
        self._layout = layout or Layout()
        self._put_content = put_content

    def store(self, entry: OutboxEntry) -> int:
        """Write the files of a FILES entry, and none for another kind; return their number.

        Raises:
            PoisonEntry: the entry holds no readable item, or a content is missing.
            OSError: the directory cannot be written.
        """
        if entry.kind is not EntryKind.FILES:
            return 0
        files = list(files_of(read_item(entry), entry.number, self._contents, self._layout))
        for file in files:
            self._write(file)
        return len(files)

    def _write(self, file: ItemFile) -> None:
        target = self.directory / file.path
        if file.content is not None:
            self._put_content(stored_content(self._contents, file.content), target)
        elif file.data is not None:
            target.parent.mkdir(parents=True, exist_ok=True)
            replace_file(target, file.data())

"""Items as files: which files an item is, below a run's directory or at its place in a store.

<key>.csv                       a table; logged again, it takes the other's place
images/<key>.<step>.<n>.<type>  an image, n being its number in the run, and its caption in a .txt beside it
artifacts/<label>/<path>        an artifact's files; logged again, they join those that are there
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from tracker_daemon.aggregation.shared.item import Content, Item
from tracker_daemon.backends.item_names import safe_name
from tracker_daemon.errors import PoisonEntry
from tracker_daemon.files.atomic_file import replace_file
from tracker_daemon.files.content_files import content_path, place_copy
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the kinds go, below the run's place."""

    tables: str = ""
    images: str = "images"
    artifacts: str = "artifacts"


@dataclass(frozen=True, slots=True)
class ItemFile:
    """One file: where it goes, and what it holds: a content as it is, or ``data``."""

    path: PurePosixPath
    content: Content | None = None
    data: Callable[[], bytes] | None = None


def read_item(entry: OutboxEntry) -> Item:
    """Decode the item of an ITEM or FILES entry.

    Raises:
        PoisonEntry: it holds none that can be read.
    """
    try:
        return Item.from_bytes(entry.payload)
    except ValueError as error:
        raise PoisonEntry(f"outbox entry {entry.number} holds no readable item: {error}") from error


def files_of(item: Item, number: int, contents: Path, layout: Layout) -> Iterator[ItemFile]:
    """The files that item ``number`` of its run is; none for a kind that is not known here.

    ``contents`` is the content store's directory.
    """
    if item.kind == "table":
        content = item.contents[0]
        path = PurePosixPath(layout.tables) / f"{safe_name(item.key)}.csv"
        yield ItemFile(path, data=lambda: table_csv(*read_table(content_path(contents, content.sha256))))
    elif item.kind == "image":
        content = item.contents[0]
        images, name = PurePosixPath(layout.images), f"{safe_name(item.key)}.{item.step}.{number}"
        yield ItemFile(images / f"{name}{PurePosixPath(content.path).suffix}", content=content)
        caption = document_of(item).get("caption")
        if caption:
            yield ItemFile(images / f"{name}.txt", data=str(caption).encode)
    elif item.kind == "artifact":
        directory = PurePosixPath(layout.artifacts) / safe_name(item.key)
        for content in item.contents:
            yield ItemFile(directory / content.path, content=content)


def document_of(item: Item) -> dict[str, Any]:
    """What the item's document says; ingest has checked that it is an object."""
    document: dict[str, Any] = json.loads(item.document)
    return document


def read_table(path: Path) -> tuple[list[str], list[list[Any]]]:
    """The columns and rows of a table's content.

    Raises:
        PoisonEntry: it is no table.
    """
    try:
        table = json.loads(path.read_bytes())
        return list(table["columns"]), list(table["data"])
    except FileNotFoundError as error:
        raise missing_content(path) from error
    except (ValueError, KeyError, TypeError) as error:
        raise PoisonEntry(f"{path} holds no table: {error!r}") from error


def table_csv(columns: list[str], rows: list[list[Any]]) -> bytes:
    """A table as CSV, in UTF-8; None is an empty field."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(rows)
    return text.getvalue().encode(errors="backslashreplace")


class FileItems:
    """Writes items into ``directory``, each file in one step and durably: again is as good as once."""

    def __init__(self, directory: Path, contents: Path, layout: Layout | None = None) -> None:
        self.directory = directory
        self._contents = contents
        self._layout = layout or Layout()

    def store(self, entry: OutboxEntry) -> None:
        """Write the files of a FILES entry.

        Raises:
            PoisonEntry: it has no readable item, or its content is gone.
            OSError: the directory cannot be written.
        """
        if entry.kind is not EntryKind.FILES:
            return
        for file in files_of(read_item(entry), entry.number, self._contents, self._layout):
            target = self.directory / file.path
            if file.content is not None:
                content = content_path(self._contents, file.content.sha256)
                if not content.exists():
                    raise missing_content(content)
                place_copy(content, target)
            elif file.data is not None:
                target.parent.mkdir(parents=True, exist_ok=True)
                replace_file(target, file.data())


def missing_content(path: Path) -> PoisonEntry:
    """The error for a content that the store does not hold (any more)."""
    return PoisonEntry(f"the content {path.name} is not in the daemon's store; log it again")

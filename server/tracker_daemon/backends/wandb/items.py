"""Items as W&B has them: a table or an image is a value of a row, an artifact is an artifact.

An item that the SDK refuses, a broken image say, is set aside by name; delivery continues with the next one.
"""

from __future__ import annotations

import contextlib
import json
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from tracker_daemon.aggregation.values.item import Item
from tracker_daemon.backends.decoding import read_item
from tracker_daemon.backends.item_files import captions_of, image_of, read_table, stored_content
from tracker_daemon.backends.wandb.rows import STEP_COLUMN, TIME_COLUMN, axis_values
from tracker_daemon.backends.wandb.transaction_log import LoggedRow
from tracker_daemon.files.content_files import content_path
from tracker_daemon.outbox.entries import OutboxEntry

_CLIENT_ARTIFACT = "wandb-client-artifact://"
MEDIA_DIRECTORY = "files"
"""The subdirectory of files in a session's directory, and in the place of a kept artifact."""


class UnusableItem(Exception):
    """The SDK refuses an item, for the reason in the message."""


@dataclass(frozen=True, slots=True)
class NumberedItem:
    """An item with the number of its entry; its contents are in the directory ``contents``."""

    number: int
    item: Item
    contents: Path

    @staticmethod
    def of(entry: OutboxEntry, contents: Path) -> NumberedItem:
        """Decode an entry's item.

        Raises:
            PoisonEntry: the entry holds no item, or a content of it is missing.
        """
        item = read_item(entry)
        for content in item.contents:
            stored_content(contents, content)
        return NumberedItem(entry.number, item, contents)

    @property
    def is_artifact(self) -> bool:
        """True if the item is an artifact, and so no value of a row."""
        return self.item.kind == "artifact"

    def row(self, name: str, last_step: int, value: Any) -> LoggedRow:
        """Return the item's row, with the SDK's ``value`` of that name, after a row with ``last_step``."""
        item = self.item
        values = {
            **axis_values(item.axes),
            name: value,
            STEP_COLUMN: item.step,
            TIME_COLUMN: item.time_ns / 1e9,
        }
        return LoggedRow(max(item.step, last_step + 1), values)


@contextlib.contextmanager
def sdk_value(numbered: NumberedItem) -> Iterator[Any]:
    """Provide the item as an object of the SDK, while it is logged; None for a kind that W&B does not have.

    Raises:
        UnusableItem: the SDK refuses the item.
    """
    item = numbered.item
    with tempfile.TemporaryDirectory(prefix="tracker-") as directory:
        try:
            value = _made(item, numbered.contents, Path(directory))
        # The SDK and its image library raise errors of any type about their arguments.
        except Exception as error:
            raise UnusableItem(f"W&B does not accept the {item.kind} {item.key!r}: {error}") from error
        yield value


def _made(item: Item, contents: Path, directory: Path) -> Any:
    wandb = import_module("wandb")
    if item.kind == "table":
        columns, rows = read_table(contents, item.contents[0])
        shown = [[_cell(cell, item, contents, directory) for cell in row] for row in rows]
        return wandb.Table(columns=columns, data=shown, allow_mixed_types=True)
    if item.kind == "image":
        captions = enumerate(captions_of(item))
        images = [_image(at, item, contents, directory, caption) for at, caption in captions]
        return images[0] if len(images) == 1 else images
    return None


def _cell(cell: Any, item: Item, contents: Path, directory: Path) -> Any:
    at = image_of(cell)
    if at is None:
        return cell
    return _image(at, item, contents, directory, cell.get("caption")) if at < len(item.contents) else None


def _image(at: int, item: Item, contents: Path, directory: Path, caption: str | None) -> Any:
    content = item.contents[at]
    named = directory / f"image{at}{PurePosixPath(content.path).suffix}"
    if not named.is_symlink():
        named.symlink_to(content_path(contents, content.sha256))
    return import_module("wandb").Image(str(named), caption=caption)


def restored_values(
    values: Mapping[str, Any], directory: Path, tables: Mapping[str, StoredTable]
) -> dict[str, Any]:
    """Return a logged row's values as they were before: references to files of ``directory`` become media.

    ``tables`` holds the tables with images by their artifacts' client ids.
    """
    return {name: _restored(value, directory / MEDIA_DIRECTORY, tables) for name, value in values.items()}


@dataclass(frozen=True, slots=True)
class StoredTable:
    """A table with images in W&B's own artifact of the table: the local file of each path within."""

    files: Mapping[str, Path]

    def table(self, links: Path) -> Any:
        """Return the table as an object of the SDK; ``links`` is a directory for links to its images.

        Raises:
            FileNotFoundError: a file of the table is gone.
        """
        wandb = import_module("wandb")
        (path,) = (file for name, file in self.files.items() if name.endswith(".table.json"))
        document = json.loads(path.read_bytes())
        rows = [[self._cell(cell, links) for cell in row] for row in document["data"]]
        return wandb.Table(columns=document["columns"], data=rows, allow_mixed_types=True)

    def _cell(self, cell: Any, links: Path) -> Any:
        if not isinstance(cell, dict) or cell.get("_type") != "image-file":
            return cell
        link = links / str(cell["path"])
        link.parent.mkdir(parents=True, exist_ok=True)
        link.unlink(missing_ok=True)
        link.symlink_to(self.files[str(cell["path"])].resolve(strict=True))
        return import_module("wandb").Image(str(link), caption=cell.get("caption"))


def _restored(value: Any, media: Path, tables: Mapping[str, StoredTable]) -> Any:
    if not isinstance(value, dict):
        return value
    if value.get("_type") == "images/separated":
        return _restored_images(value, media)
    if "path" not in value:
        return value
    stored = tables.get(str(value.get("artifact_path", "")).removeprefix(_CLIENT_ARTIFACT).partition("/")[0])
    if stored is not None:
        with contextlib.suppress(FileNotFoundError, KeyError):
            return stored.table(media)
    wandb, path = import_module("wandb"), media / str(value["path"])
    if not path.exists():
        return value
    if value.get("_type") == "image-file":
        return wandb.Image(str(path), caption=value.get("caption"))
    if value.get("_type") == "table-file":
        table = json.loads(path.read_bytes())
        return wandb.Table(columns=table["columns"], data=table["data"], allow_mixed_types=True)
    return value


def _restored_images(value: dict[str, Any], media: Path) -> Any:
    paths = [media / str(name) for name in value.get("filenames", ())]
    if not paths or not all(path.exists() for path in paths):
        return value
    captions = value.get("captions")
    captions = captions if isinstance(captions, list) else [None] * len(paths)
    wandb = import_module("wandb")
    return [wandb.Image(str(path), caption=caption) for path, caption in zip(paths, captions, strict=False)]

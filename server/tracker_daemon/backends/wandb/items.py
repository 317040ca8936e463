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
from tracker_daemon.backends.item_files import document_of, read_table, stored_content
from tracker_daemon.backends.wandb.rows import STEP_COLUMN, TIME_COLUMN, wandb_name
from tracker_daemon.backends.wandb.transaction_log import LoggedRow
from tracker_daemon.files.content_files import content_path
from tracker_daemon.outbox.entries import OutboxEntry

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

    def row(self, last_step: int, value: Any) -> LoggedRow:
        """Return the row for the item, as the SDK's ``value``, after a row with ``last_step``."""
        item = self.item
        values = {
            wandb_name(item.key): value,
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
        return wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
    if item.kind == "image":
        content = item.contents[0]
        named = directory / f"image{PurePosixPath(content.path).suffix}"
        named.symlink_to(content_path(contents, content.sha256))
        return wandb.Image(str(named), caption=document_of(item).get("caption"))
    return None


def restored_values(values: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """Return a logged row's values as they were before: references to files of ``directory`` become media."""
    return {name: _restored(value, directory / MEDIA_DIRECTORY) for name, value in values.items()}


def _restored(value: Any, media: Path) -> Any:
    if not isinstance(value, dict) or "path" not in value:
        return value
    wandb, path = import_module("wandb"), media / str(value["path"])
    if not path.exists():
        return value
    if value.get("_type") == "image-file":
        return wandb.Image(str(path), caption=value.get("caption"))
    if value.get("_type") == "table-file":
        table = json.loads(path.read_bytes())
        return wandb.Table(columns=table["columns"], data=table["data"], allow_mixed_types=True)
    return value

"""Items as W&B has them: tables and images are values of a row, artifacts are artifacts.

An artifact's files are linked into ``<outdir>/wandb/tracker-artifacts-<id>/<n>/`` before it is logged: the
daemon gives a content up once it is delivered, and the SDK uploads later, offline much later. What is
there is logged again whenever the run is taken up again; to W&B an artifact of the same content is the
same version. Online they are removed once the run has ended, and all is uploaded. So one is delivered once it
is there; the SDK is given it a while later (see wandb_artifacts).

What the SDK takes for no image, say, is set aside by name, and the rest goes on.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path, PurePosixPath
from typing import Any

from tracker_daemon.aggregation.shared.item import Item
from tracker_daemon.backends.item_files import document_of, missing_content, read_item, read_table
from tracker_daemon.backends.item_names import safe_name
from tracker_daemon.backends.wandb.rows import STEP_COLUMN, TIME_COLUMN, wandb_name
from tracker_daemon.backends.wandb.transaction_log import LoggedRow
from tracker_daemon.files.content_files import content_path, place_copy
from tracker_daemon.outbox.entries import OutboxEntry

ARTIFACT_TYPE = "artifact"
_ABOUT = "tracker-artifact.json"
_MEDIA = "files"


class UnusableItem(Exception):
    """The SDK does not take an item; the message says why."""


@dataclass(frozen=True, slots=True)
class NumberedItem:
    """An item with its entry's number, whose contents are there."""

    number: int
    item: Item
    contents: Path

    @staticmethod
    def of(entry: OutboxEntry, contents: Path) -> NumberedItem:
        """The item of an entry.

        Raises:
            PoisonEntry: it holds none, or a content of it is gone.
        """
        item = read_item(entry)
        for content in item.contents:
            path = content_path(contents, content.sha256)
            if not path.exists():
                raise missing_content(path)
        return NumberedItem(entry.number, item, contents)

    @property
    def is_artifact(self) -> bool:
        """Whether it is no value of a row."""
        return self.item.kind == "artifact"

    def row(self, last_step: int, value: Any) -> LoggedRow:
        """The row that it is, after one with ``last_step``."""
        item = self.item
        values = {
            wandb_name(item.key): value,
            STEP_COLUMN: item.step,
            TIME_COLUMN: item.time_ns / 1e9,
        }
        return LoggedRow(max(item.step, last_step + 1), values)


@contextlib.contextmanager
def sdk_value(numbered: NumberedItem) -> Iterator[Any]:
    """The item as an object of the SDK, while it is logged; None for a kind that W&B does not have.

    Raises:
        UnusableItem: the SDK does not take it.
    """
    item = numbered.item
    with tempfile.TemporaryDirectory(prefix="tracker-") as directory:
        try:
            value = _made(item, numbered.contents, Path(directory))
        # The SDK and the image library behind it raise what they like about what they are given.
        except Exception as error:
            raise UnusableItem(f"W&B takes {item.kind} {item.key!r} for none: {error}") from error
        yield value


def _made(item: Item, contents: Path, directory: Path) -> Any:
    wandb = import_module("wandb")
    if item.kind == "table":
        columns, rows = read_table(content_path(contents, item.contents[0].sha256))
        return wandb.Table(columns=columns, data=rows, allow_mixed_types=True)
    if item.kind == "image":
        content = item.contents[0]
        named = directory / f"image{PurePosixPath(content.path).suffix}"
        named.symlink_to(content_path(contents, content.sha256))
        return wandb.Image(str(named), caption=document_of(item).get("caption"))
    return None


def revived(values: Mapping[str, Any], directory: Path) -> dict[str, Any]:
    """A row's values as they were logged: what stands for a file of ``directory``, as that file again."""
    return {name: _revived(value, directory / _MEDIA) for name, value in values.items()}


def _revived(value: Any, media: Path) -> Any:
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


# ---- artifacts -----------------------------------------------------------------------------------


class ArtifactShelf:
    """The artifacts of one W&B run, kept until they are uploaded."""

    def __init__(self, outdir: Path, wandb_id: str) -> None:
        self._directory = outdir / "wandb" / f"tracker-artifacts-{wandb_id}"
        # Where the SDK puts its own copies; by default that is the user's home, which may be small.
        os.environ.setdefault("WANDB_DATA_DIR", str(outdir / "wandb"))

    def place(self, number: int) -> Path:
        """Where the artifact of that entry is kept."""
        return self._directory / str(number)

    def put(self, numbered: NumberedItem) -> Path:
        """Keep an artifact's files; where they are."""
        item, place = numbered.item, self.place(numbered.number)
        shutil.rmtree(place, ignore_errors=True)
        for content in item.contents:
            target = place / _MEDIA / content.path
            target.parent.mkdir(parents=True, exist_ok=True)
            source = content_path(numbered.contents, content.sha256)
            try:
                os.link(source, target)
            except OSError:  # another file system
                place_copy(source, target)
        place.mkdir(parents=True, exist_ok=True)
        (place / _ABOUT).write_text(json.dumps({"label": item.key, "step": item.step}), encoding="utf-8")
        return place

    def kept(self) -> list[Path]:
        """The artifacts that are there, in the order of their logging."""
        whole = (place for place in self._directory.glob("[0-9]*") if (place / _ABOUT).exists())
        return sorted(whole, key=lambda place: int(place.name))

    def drop(self, place: Path) -> None:
        """It is of no use."""
        shutil.rmtree(place, ignore_errors=True)

    def clear(self) -> None:
        """All of them are uploaded."""
        shutil.rmtree(self._directory, ignore_errors=True)


def sdk_artifact(place: Path) -> Any:
    """The artifact that is kept at ``place``, as the SDK has it."""
    wandb = import_module("wandb")
    about = json.loads((place / _ABOUT).read_bytes())
    name = safe_name(about["label"])
    artifact = wandb.Artifact(name, type=ARTIFACT_TYPE, metadata=about)
    files = place / _MEDIA
    for path in sorted(files.rglob("*")):
        if path.is_file():
            artifact.add_file(
                str(path), name=path.relative_to(files).as_posix(), skip_cache=True, policy="immutable"
            )
    return artifact

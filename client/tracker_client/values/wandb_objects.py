"""W&B's own objects as values of ``log()``: a Histogram, an Image, a Table.

They are recognised by the names of their classes, without an import: a script that has one has imported W&B.
They hold plain data: lists of counts and edges, the path of an image file, columns and rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tracker_client.values.histogram import Histogram


@dataclass(frozen=True)
class ImageValue:
    """An image file, written by W&B or named by the script."""

    path: str
    caption: str | None


@dataclass(frozen=True)
class TableValue:
    """A table's columns, and its rows as they are now."""

    columns: list[Any]
    rows: list[list[Any]]


@dataclass(frozen=True)
class ImagesValue:
    """Several images of one key."""

    images: tuple[ImageValue, ...]


MediaValue = ImageValue | ImagesValue | TableValue


def is_of_wandb(value: Any) -> bool:
    """Return True if the class of ``value`` belongs to W&B's package."""
    return type(value).__module__.startswith("wandb.")


def images_of_wandb(value: Any) -> ImagesValue | None:
    """Return the images of a list that holds nothing else; None for any other value."""
    if not isinstance(value, (list, tuple)) or not value or not all(map(is_of_wandb, value)):
        return None
    images = tuple(one for one in map(from_wandb, value) if isinstance(one, ImageValue))
    return ImagesValue(images) if len(images) == len(value) else None


def is_media_of_wandb(value: Any) -> bool:
    """Return True for an object of W&B, or a list of its images."""
    return is_of_wandb(value) or images_of_wandb(value) is not None


def from_wandb(value: Any) -> Histogram | MediaValue | None:
    """Return the data of a Histogram, an Image or a Table; None for any other object."""
    kind = type(value).__name__
    if kind == "Histogram":
        return Histogram(tuple(map(float, value.bins)), tuple(map(float, value.histogram)))
    if kind == "Image" and isinstance(getattr(value, "_path", None), str):
        return ImageValue(value._path, getattr(value, "_caption", None))  # noqa: SLF001 - there is no public way
    if kind == "Table":
        return TableValue(list(value.columns), [list(row) for row in value.data])
    return None

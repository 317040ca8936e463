"""W&B's own objects as values of ``log()``: a Histogram, an Image, a Table.

They are known by the names of their classes and never imported: who has one has imported W&B. What they
hold is plain: lists of counts and edges, the path of an image file, columns and rows.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from tracker_client.values.histogram import Histogram


@dataclass(frozen=True)
class ImageValue:
    """An image file, which W&B has written or the script has named."""

    path: str
    caption: str | None


@dataclass(frozen=True)
class TableValue:
    """A table's columns, and its rows as they are now."""

    columns: list[Any]
    rows: list[list[Any]]


MediaValue = ImageValue | TableValue


def is_of_wandb(value: Any) -> bool:
    """Whether W&B's package has the class of ``value``."""
    return type(value).__module__.startswith("wandb.")


def from_wandb(value: Any) -> Histogram | MediaValue | None:
    """What a Histogram, an Image or a Table holds; None for anything else."""
    kind = type(value).__name__
    if kind == "Histogram":
        return Histogram(tuple(map(float, value.bins)), tuple(map(float, value.histogram)))
    if kind == "Image" and isinstance(getattr(value, "_path", None), str):
        return ImageValue(value._path, getattr(value, "_caption", None))  # noqa: SLF001 - there is no public way
    if kind == "Table":
        return TableValue(list(value.columns), [list(row) for row in value.data])
    return None

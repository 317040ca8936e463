"""The kinds of numbers. All travel as float64; the kind says as what a number was logged."""

from __future__ import annotations

from enum import IntEnum


class Kind(IntEnum):
    """The kind of a number, as the wire carries it."""

    FLOAT = 0
    INT = 1
    BOOL = 2

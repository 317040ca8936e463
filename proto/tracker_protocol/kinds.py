"""The kinds of numbers. All travel as float64; the kind says as what a number was logged."""

from __future__ import annotations

from enum import IntEnum

ROUNDED_FROM = 2**53
"""The least size of an integer that a float64 may have rounded."""
ROUNDING = "an integer beyond 2^53 is recorded as the nearest float64"


class Kind(IntEnum):
    """The kind of a number, as the wire carries it."""

    FLOAT = 0
    INT = 1
    BOOL = 2

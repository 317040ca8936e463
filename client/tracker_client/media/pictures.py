"""Encodes PIL's images as PNG. Values of 32 bits, which PNG does not have, are scaled to 8 bits."""

from __future__ import annotations

import io
import math
from collections.abc import Callable
from typing import Any

from tracker_client.staging.sources import SourceUnusable

_KEPT_MODES = frozenset(("1", "L", "LA", "P", "RGB", "RGBA", "I;16"))
_WIDE_MODES = frozenset(("I", "F"))
_TOP = 255.0


def encode_picture(picture: Any, note: Callable[[str], None]) -> bytes:
    """Encode a PIL image as PNG; ``note`` receives a sentence if its values are scaled.

    Raises:
        SourceUnusable: a value is not finite.
    """
    if picture.mode in _WIDE_MODES:
        picture = _scaled(picture, note)
    elif picture.mode not in _KEPT_MODES:
        picture = picture.convert("RGB")
    buffer = io.BytesIO()
    picture.save(buffer, format="PNG")
    return buffer.getvalue()


def _scaled(picture: Any, note: Callable[[str], None]) -> Any:
    """Scale integers or floats of 32 bits to 0 … 255.

    Integers in 0 … 255 stay, floats in 0 … 1 are multiplied by 255. Of other values the least becomes 0 and
    the greatest 255.

    Raises:
        SourceUnusable: a value is not finite.
    """
    low, high = (float(value) for value in picture.getextrema())
    if not (math.isfinite(low) and math.isfinite(high)):
        raise SourceUnusable("an image with values that are not finite is not recorded")
    if low >= 0 and high <= (1 if picture.mode == "F" else _TOP):
        scale, offset = (_TOP if picture.mode == "F" else 1.0), 0.0
    else:
        scale = _TOP / (high - low) if high > low else 0.0
        offset = -low * scale
        note(f"an image of mode {picture.mode} is scaled from {low:g} … {high:g} to 8 bits")
    # PIL computes such a function without a call for each value. It cuts the fraction off: 0.5 rounds.
    return picture.convert("F").point(lambda value: value * scale + (offset + 0.5)).convert("L")

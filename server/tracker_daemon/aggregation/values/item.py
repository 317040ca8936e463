"""Items: tables, images, artifacts and histograms, which are no values of a metric.

The fold decides which ranks' items are recorded and under which name, and passes them on in their order. Each
kind of item defines its own document. The fold never has the contents themselves.
"""

from __future__ import annotations

import msgspec

NO_ROW = -1
"""The row of an item that was logged before its rank's first row."""


class Content(msgspec.Struct, frozen=True, array_like=True):
    """Bytes that are uploaded apart: their SHA-256 in hexadecimal, and their path within the item."""

    sha256: str
    size_bytes: int
    path: str


class Item(msgspec.Struct, frozen=True, array_like=True):
    """One item. ``document`` is the text of a JSON object; ``row`` is the number of its rank's row.

    ``axes`` are the values, at that row, of metrics that are axes of others. ``axis`` is the item's own, ""
    or "step" for the step.
    """

    kind: str
    key: str
    step: int
    time_ns: int
    document: str
    contents: tuple[Content, ...] = ()
    automatic_step: bool = False
    rank: int = 0
    attempt: int = 1
    row: int = NO_ROW
    axes: dict[str, float] = {}
    axis: str = ""

    def to_bytes(self) -> bytes:
        """Encode for the outbox; :meth:`from_bytes` returns an equal item."""
        return msgspec.msgpack.encode(self)

    @staticmethod
    def from_bytes(payload: bytes) -> Item:
        """Decode the bytes of :meth:`to_bytes`; raises ValueError for anything else."""
        return _decode(payload)


_decode = msgspec.msgpack.Decoder(Item).decode

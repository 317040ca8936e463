"""Items between messages and values."""

from __future__ import annotations

from tracker_daemon.aggregation.values.item import NO_ROW, Content, Item
from tracker_daemon.errors import MalformedBatch
from tracker_daemon.wire.documents import check_json_object
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

_SHA256_BYTES = 32


def decode_item(message: pb.Item) -> Item:
    """Check and decode one item.

    Raises:
        MalformedBatch: it breaks the protocol.
    """
    _check_size("kind", message.kind, 1, limits.ITEM_KIND_MAX_BYTES)
    _check_size("key", message.key, 1, limits.METRIC_NAME_MAX_BYTES)
    _check_size("document", message.document, 0, limits.ITEM_DOCUMENT_MAX_BYTES)
    check_json_object("an item's document", message.document)
    if abs(message.step) > limits.STEP_MAX:
        raise MalformedBatch(f"an item's step lies beyond ±{limits.STEP_MAX}")
    if len(message.contents) > limits.CONTENTS_PER_ITEM_MAX:
        raise MalformedBatch(f"an item has more than {limits.CONTENTS_PER_ITEM_MAX} contents")
    if message.row > limits.ROW_NUMBER_MAX:
        raise MalformedBatch(f"an item's row lies beyond {limits.ROW_NUMBER_MAX}")
    contents = tuple(map(_content, message.contents))
    if len({content.path for content in contents}) != len(contents):
        raise MalformedBatch("an item has two contents of one path")
    return Item(
        message.kind, message.key, message.step, message.time_ns, message.document, contents,
        message.automatic_step, row=message.row if message.HasField("row") else NO_ROW,
    )  # fmt: skip


def encode_item(item: Item) -> pb.Item:
    """Return the message for ``item``; its rank and attempt are those of its stream."""
    contents = [
        pb.Content(sha256=bytes.fromhex(content.sha256), size_bytes=content.size_bytes, path=content.path)
        for content in item.contents
    ]
    return pb.Item(
        kind=item.kind,
        key=item.key,
        step=item.step,
        automatic_step=item.automatic_step,
        time_ns=item.time_ns,
        document=item.document,
        contents=contents,
        row=None if item.row == NO_ROW else item.row,
    )


def _content(message: pb.Content) -> Content:
    if len(message.sha256) != _SHA256_BYTES:
        raise MalformedBatch(f"a content's SHA-256 has {_SHA256_BYTES} bytes, not {len(message.sha256)}")
    _check_size("content's path", message.path, 0, limits.CONTENT_PATH_MAX_BYTES)
    parts = message.path.split("/")
    # Backends make files of these below a directory of theirs.
    if "\0" in message.path or (message.path and not {"", ".", ".."}.isdisjoint(parts)):
        raise MalformedBatch(f"the path of a content is relative and in its simplest form: {message.path!r}")
    return Content(message.sha256.hex(), message.size_bytes, message.path)


def _check_size(what: str, text: str, least: int, most: int) -> None:
    size = len(text.encode())
    if not least <= size <= most:
        raise MalformedBatch(f"an item's {what} has {size} bytes; {least} to {most} are allowed")

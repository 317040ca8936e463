"""Makes drafts of items from tables, images and artifacts.

Nothing here waits. Data that the caller can change is copied at the call. Slow work (reading large files,
encoding, uploading) is left to the uploading thread.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from time import time_ns
from typing import Any, Protocol, TypeVar

from tracker_client.media.artifacts import Directory, artifact_file, location_of
from tracker_client.media.images import image_contents
from tracker_client.media.tables import make_table
from tracker_client.staging.items import ItemDraft
from tracker_client.staging.sources import Source, SourceUnusable
from tracker_client.transport.uploads import Upload, UploadProgress
from tracker_client.values.arguments import valid_text
from tracker_client.values.refusals import Refusals
from tracker_client.values.steps import given_step
from tracker_client.values.wandb_objects import ImagesValue, ImageValue, MediaValue
from tracker_protocol import limits

T = TypeVar("T")
_NAMED_MAX = 5
logger = logging.getLogger("tracker_client")


class ItemSink(Protocol):
    """The receiver of drafts, in the order of the calls."""

    def announce(self, draft: ItemDraft) -> bool:
        """Queue ``draft``; return False if there is no room for it."""


class UploadSink(Protocol):
    """The receiver of the drafts' contents."""

    def submit(self, upload: Upload) -> bool:
        """Queue ``upload``; return False if there is no room for it."""

    def progress(self) -> UploadProgress:
        """Return the current progress of the uploads."""

    def stop(self) -> None:
        """Accept no further upload."""


class Media:
    """The media that one tracker logs. A method may raise what the caller's own objects raise."""

    def __init__(self, items: ItemSink, uploads: UploadSink, refusals: Refusals) -> None:
        self.uploads = uploads
        self._items = items
        self._refusals = refusals

    # ---- calls of the script ---------------------------------------------------------------------

    def table(self, key: str, columns: Any, data: Any, step: Any = None) -> None:
        """Log a table of rows, or a data frame."""
        name = self._checked_key(key)
        if name is None:
            return
        table = self._unless_unusable(name, lambda: make_table(columns, data))
        if table is None:
            return
        if table.cut_from:
            reason = f"a table of {table.cut_from} rows is too long; its first {table.row_count} are recorded"
            self._refusals.warn_once(name, reason)
        for note in dict.fromkeys(table.notes):
            self._refusals.warn_each_minute(name, note)
        about = {"columns": len(table.columns), "rows": table.row_count}
        draft = _draft("table", name, given_step(step, self._refusals), about)
        refuse = partial(self._refusals.refuse, name)
        self._submit(draft, lambda: table.sources(refuse), table.held_bytes)

    def image(self, key: str, image: Any, caption: Any, step: Any = None) -> None:
        """Log an image, a list of images, or a stack of them."""
        name = self._checked_key(key)
        if name is None:
            return
        note = partial(self._refusals.warn_each_minute, name)
        taken = self._unless_unusable(name, lambda: image_contents(image, caption, note))
        if taken is None:
            return
        captions = [text for _, text in taken]
        about = {"caption": captions[0]} if len(taken) == 1 else {"captions": captions}
        draft = _draft("image", name, given_step(step, self._refusals), about)
        sources = [content.source for content, _ in taken]
        self._submit(draft, lambda: iter(sources), sum(content.held_bytes for content, _ in taken))

    def value(self, key: str, value: MediaValue, step: int | None) -> None:
        """Log an image or table that was a value of ``log()``; without a step it gets the step of its row."""
        if isinstance(value, ImageValue):
            self.image(key, value.path, value.caption, step)
        elif isinstance(value, ImagesValue):
            captions = [image.caption for image in value.images]
            self.image(key, [image.path for image in value.images], captions, step)
        else:
            self.table(key, value.columns, value.rows, step)

    def artifacts(self, artifacts: Mapping[str, Any], step: Any = None) -> None:
        """Log files and directories by label."""
        at = given_step(step, self._refusals)
        for label, path in dict(artifacts).items():
            name = self._checked_key(label)
            if name is not None:
                self._unless_unusable(name, partial(self._artifact, name, path, at))

    def _artifact(self, label: str, path: Any, step: int | None) -> None:
        location = location_of(path)
        if os.path.isdir(location):  # noqa: PTH112 - a text stays one
            draft = _draft("artifact", label, step, {"directory": True})
            self._submit(draft, Directory(location, label, self._refusals).sources, 0)
            return
        keep_open = self.uploads.progress().waiting < limits.CLIENT_OPEN_FILES_MAX
        source, held_bytes = artifact_file(location, keep_open=keep_open)
        draft = _draft("artifact", label, step, {"directory": False})
        self._submit(draft, lambda: iter([source]), held_bytes)

    # ---- checks and queues -----------------------------------------------------------------------

    def _submit(self, draft: ItemDraft, sources: Callable[[], Iterator[Source]], held_bytes: int) -> None:
        if not self.uploads.submit(Upload(draft, sources, held_bytes)):
            reason = f"too many or too large contents wait to be uploaded; this {draft.kind} is not recorded"
            self._refusals.refuse(draft.key, reason)
            return
        self._announce(draft)

    def _announce(self, draft: ItemDraft) -> None:
        if not self._items.announce(draft):
            reason = f"too much waits to be sent already; this {draft.kind} is not recorded"
            self._refusals.refuse(draft.key, reason)

    def _unless_unusable(self, key: str, take: Callable[[], T]) -> T | None:
        """Call ``take`` and return its result; refuse ``key`` and return None if it raises SourceUnusable."""
        try:
            return take()
        except SourceUnusable as unusable:
            self._refusals.refuse(key, str(unusable))
            return None

    def _checked_key(self, key: Any) -> str | None:
        if not isinstance(key, str):
            self._refusals.refuse(key, f"a name is a text, not a {type(key).__name__}; it is not recorded")
            return None
        name = valid_text(key)
        size = len(name.encode())
        if not 1 <= size <= limits.METRIC_NAME_MAX_BYTES:
            self._refusals.refuse(key, f"a name has 1 to {limits.METRIC_NAME_MAX_BYTES} bytes, not {size}")
            return None
        return name

    # ---- the end ---------------------------------------------------------------------------------

    def end(self, unrecorded: Sequence[ItemDraft]) -> None:
        """Stop the uploads, and warn of the ``unrecorded`` items by name."""
        progress = self.uploads.progress()
        self.uploads.stop()
        if not unrecorded:
            return
        named = ", ".join(f"{draft.kind} {draft.key!r}" for draft in unrecorded[:_NAMED_MAX])
        more = f" and {len(unrecorded) - _NAMED_MAX} more" if len(unrecorded) > _NAMED_MAX else ""
        uploading = f"; of {progress.key!r} {progress.percent} % was uploaded" if progress.key else ""
        logger.warning(
            "finish() had no more time: %d items are not recorded: %s%s%s",
            len(unrecorded), named, more, uploading,
        )  # fmt: skip


def _draft(kind: str, key: str, step: int | None, document: Mapping[str, Any]) -> ItemDraft:
    """Make a draft whose contents are not uploaded yet."""
    return ItemDraft(kind, key, step, time_ns(), json.dumps(document), None)

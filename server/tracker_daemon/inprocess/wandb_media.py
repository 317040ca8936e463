"""Images and tables of one call as objects of the W&B SDK, with files in a temporary directory."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable
from pathlib import Path, PurePosixPath
from typing import Any

from tracker_client.media.images import Note, image_contents
from tracker_client.media.tables import make_table
from tracker_client.staging.sources import Source, SourceUnusable
from tracker_daemon.backends.item_files import image_of
from tracker_daemon.inprocess.files_lane import copy_source


class SdkMedia:
    """The objects of one call; ``close`` removes their files, once the SDK has copied them."""

    def __init__(self, wandb: Any) -> None:
        self._wandb = wandb
        self._directory = tempfile.TemporaryDirectory(prefix="tracker-")
        self._count = 0
        self.close = self._directory.cleanup

    def images(self, image: Any, caption: Any, note: Note) -> Any:
        """Return a ``wandb.Image``, or a list of them for a list or a stack of images.

        Raises:
            SourceUnusable: there is no image, or one that cannot be recorded.
        """
        taken = image_contents(image, caption, note)
        images = [self._image(content.source, text) for content, text in taken]
        return images[0] if len(images) == 1 else images

    def table(self, columns: Any, data: Any, note: Note, refuse: Callable[[str], None]) -> Any:
        """Return a ``wandb.Table``, with its images.

        Raises:
            SourceUnusable: the arguments are no table.
        """
        table = make_table(columns, data)
        for text in dict.fromkeys(table.notes):
            note(text)
        document, *images = table.sources(refuse)
        files = [self._file(source) for source in images]
        content = json.loads(self._file(document).read_bytes())
        rows = [[self._cell(cell, files) for cell in row] for row in content["data"]]
        return self._wandb.Table(columns=content["columns"], data=rows, allow_mixed_types=True)

    def _cell(self, cell: Any, images: list[Path]) -> Any:
        number = image_of(cell)
        if number is None:
            return cell
        return self._wandb.Image(str(images[number - 1]), caption=cell.get("caption"))

    def _image(self, source: Source, caption: str | None) -> Any:
        return self._wandb.Image(str(self._file(source)), caption=caption)

    def _file(self, source: Source) -> Path:
        """Write a source to a file; W&B recognises the kind of an image by the file's suffix."""
        self._count += 1
        path = Path(self._directory.name, f"{self._count}{PurePosixPath(source.path).suffix}")
        try:
            copy_source(source, path)
        except OSError as error:
            raise SourceUnusable(
                f"{path} cannot be written ({error.strerror}); it is not recorded"
            ) from error
        return path

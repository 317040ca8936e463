"""The files of one run in its directory: each is named in the manifest before it is made.

A file that exists and is not named is another program's, and is never changed. The run's file then gets the
run's id in its name: ``config-<id>.json``.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from tracker_daemon.files.manifest import Manifest, add_files, add_to_manifest
from tracker_daemon.files.run_names import safe_run_id


class OwnFiles:
    """Names files of the run ``run_id`` in ``directory``, which the run has claimed. For one thread.

    Raises:
        OSError: from every method: the manifest cannot be read or written.
    """

    def __init__(self, directory: Path, run_id: str) -> None:
        self.directory = directory
        self._run_id = run_id
        manifest = Manifest.read(directory)
        self._named = set(manifest.files if manifest is not None else ())

    def name(self, *files: str) -> None:
        """Name files as the run's, even if they exist: the run has claimed the directory with them."""
        self._add(files)

    def claim(self, files: Sequence[str]) -> list[Path]:
        """Name the files that are about to be written; return the path for each of them."""
        free = [self._free(file) for file in files]
        self._add(free)
        return [self.directory / file for file in free]

    def announce(self, path: Path, data: bytes) -> None:
        """Note a content that a file is about to get: a file with any other is no longer the run's."""
        digest = hashlib.sha256(data).hexdigest()
        add_to_manifest(self.directory, wrote={path.relative_to(self.directory).as_posix(): digest})

    def _free(self, file: str) -> str:
        if file in self._named or not os.path.lexists(self.directory / file):
            return file
        path = PurePosixPath(file)
        return str(path.with_name(f"{path.stem}-{safe_run_id(self._run_id)}{path.suffix}"))

    def _add(self, files: Sequence[str]) -> None:
        new = [file for file in files if file not in self._named]
        if new:
            add_files(self.directory, new)
            self._named.update(new)

"""The product's own files within a directory that a script logs: an artifact never takes them along.

They are the daemon's state (with its token and key), manifests and locks, MLflow's database and artifacts,
W&B's directory, the run's own artifacts, and all files of other runs. They are recognised by their names, and
by what lies beside them, wherever they are. A file of the script with a similar name stays in the artifact.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from tracker_protocol.run_files import (
    JOURNAL_FILE,
    MANIFEST_FILE,
    MLFLOW_ARTIFACTS,
    MLFLOW_DATABASE,
    OWN_PREFIX,
    STATE_DIRECTORY,
    WANDB_DIRECTORY,
    listed_files,
)

_ARTIFACTS = "artifacts/"
_MLFLOW = re.compile(rf"\.?{re.escape(MLFLOW_DATABASE)}([-.].*)?", re.DOTALL)
_WANDB_RUN = re.compile(r"(offline-)?run-\d+_\d+-.*|tracker-artifacts-.*")


@dataclass(frozen=True)
class Within:
    """A directory on the way through an artifact, as seen from the run's directory around it.

    Attributes:
        location: the directory.
        path: its path from the run's directory, with "/" at its end; "" if it is that directory itself.
        ours: the run's own files that are left out, by path from the run's directory.
    """

    location: str
    path: str = ""
    ours: frozenset[str] = frozenset()

    def entered(self, name: str) -> Within:
        """Return the subdirectory ``name``."""
        location = os.path.join(self.location, name)  # noqa: PTH118 - a text stays one
        listed = _listed(location)
        if listed is not None:  # another run's directory, or this run's below the one that is logged
            return Within(location, "", listed)
        return Within(location, f"{self.path}{name}/", self.ours)

    def leaves_out(self, entry: os.DirEntry[str]) -> bool:
        """Return True if ``entry`` of this directory is the product's."""
        name = entry.name
        if name == STATE_DIRECTORY or name.startswith(f"{OWN_PREFIX}-") or _MLFLOW.fullmatch(name):
            return True
        if not entry.is_dir():
            return f"{self.path}{name}" in self.ours
        if entry.is_symlink():
            return _listed(entry.path) is not None  # the link to the latest run
        if name == WANDB_DIRECTORY:
            return any(_WANDB_RUN.fullmatch(one) for one in _names(entry.path))
        if name == MLFLOW_ARTIFACTS:
            return not {MLFLOW_DATABASE, MANIFEST_FILE, STATE_DIRECTORY}.isdisjoint(_names(self.location))
        return is_state_directory(entry.path)


def logged(location: str) -> Within:
    """Return the directory that a script logs.

    Of the run's own directory the rows, tables and images belong to the artifact, other artifacts do not.
    """
    path = Path(location).resolve()
    for directory in (path, *path.parents):
        listed = _listed(str(directory))
        if listed is not None:
            inside = path.relative_to(directory).as_posix()
            own = frozenset(file for file in listed if file.startswith(_ARTIFACTS))
            return Within(location, "" if inside == "." else f"{inside}/", own)
    return Within(location)


def is_state_directory(location: str) -> bool:
    """Return True if the directory holds a daemon's journal, token and key."""
    return os.path.exists(os.path.join(location, JOURNAL_FILE))  # noqa: PTH110, PTH118 - a text stays one


def is_in_state_directory(location: str) -> bool:
    """Return True if the path is a daemon's state directory, or in one."""
    path = Path(location).resolve()
    return any(is_state_directory(str(directory)) for directory in (path, *path.parents))


def _listed(location: str) -> frozenset[str] | None:
    return listed_files(Path(location))


def _names(location: str) -> list[str]:
    try:
        return os.listdir(location)  # noqa: PTH208 - names alone
    except OSError:
        return []

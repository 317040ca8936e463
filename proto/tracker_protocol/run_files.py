"""The names of the product's own files and directories, and the list of files in a run's directory.

A run's directory has a *manifest*, ``.tracker-run``: JSON objects, one a line, which are only ever added. The
first line describes the run. A later line may name files of the run, relative to the directory. A file is
named before it is made, so a crash leaves no file of the run that the manifest does not name.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

OWN_PREFIX = ".tracker"
"""The product's hidden files and directories begin with this: the state directory, manifests, locks."""
MANIFEST_FILE = ".tracker-run"
METRICS_FILE = "metrics.csv"
CONFIG_FILE = "config.json"
STATE_DIRECTORY = ".tracker"
"""The state directory of ``run`` and of a script's own daemon, in the output directory."""
JOURNAL_FILE = "journal.sqlite3"
DEFAULT_OUTPUT_DIRECTORY = "tracker-runs"
"""The output directory, in the working directory, if none is named."""
RUNS_DIRECTORY = "runs"
"""The directory of earlier runs, in an output directory that was named."""
LAUNCH_FILES = "launch-*.json"
"""The endpoint files of the launches that a script's own daemon serves, in its state directory."""
LATEST_LINK = "latest"
"""The link beside runs' directories to the run that began last."""
MLFLOW_DATABASE = "mlflow.db"
MLFLOW_ARTIFACTS = "mlartifacts"
WANDB_DIRECTORY = "wandb"


def launch_file_name(launch_key: str) -> str:
    """Return the name of a launch's endpoint file: a hash, since the key may have any characters."""
    digest = hashlib.sha256(launch_key.encode(errors="surrogateescape")).hexdigest()
    return LAUNCH_FILES.replace("*", digest[:20])


def manifest_lines(directory: Path) -> Iterator[dict[str, Any]]:
    """Yield the objects of the manifest in ``directory``; a line that a crash cut short is passed over.

    Raises:
        OSError: there is no manifest, or it cannot be read.
    """
    for line in (directory / MANIFEST_FILE).read_bytes().split(b"\n"):
        try:
            found = json.loads(line) if line else None
        except (ValueError, RecursionError):
            continue
        if isinstance(found, dict):
            yield found


def is_inside(file: str) -> bool:
    """Return True for a path within the run's directory, whatever a manifest names: no other is the run's."""
    path = PurePosixPath(file)
    return bool(path.parts) and not path.is_absolute() and ".." not in path.parts


def listed_files(directory: Path) -> frozenset[str] | None:
    """Return the files that the manifest in ``directory`` names; None without a readable manifest."""
    try:
        return frozenset(name for line in manifest_lines(directory) for name in line.get("files", ()))
    except OSError:
        return None

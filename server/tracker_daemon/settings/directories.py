"""Directories: absolute paths, and the default place of a daemon's state. Needs no settings to be loaded."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs


def absolute(path: Path) -> Path:
    """Resolve ``path`` against the current working directory, since status reports full paths."""
    return Path(os.path.abspath(path.expanduser()))  # noqa: PTH100 - resolve() would follow links


def default_state_directory() -> Path:
    """Return ``$STATE_DIRECTORY`` (systemd sets it), else where the platform keeps a user's state."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return absolute(Path(given)) if given else platformdirs.user_state_path("tracker-daemon")

"""Directories: absolute paths, and the default place of a daemon's state. Needs no settings to be loaded."""

from __future__ import annotations

import os
from pathlib import Path

import platformdirs

from tracker_daemon.errors import SettingsError


def absolute(path: Path) -> Path:
    """Resolve ``path`` against the current working directory, since status reports full paths.

    Raises:
        SettingsError: there is no working directory, or the path is not UTF-8: messages, the journal and the
            status could not name it.
    """
    try:
        # resolve() would follow links.
        found = Path(os.path.abspath(path.expanduser()))  # noqa: PTH100
    except FileNotFoundError:
        msg = f"{path} is relative to the working directory, and that has been deleted; name it in full"
        raise SettingsError(msg) from None
    except RuntimeError:
        msg = f"no home directory is known for {path}; name it in full"
        raise SettingsError(msg) from None
    try:
        os.fsencode(found).decode()  # as the file system has it: the file-system encoding may be ASCII here
    except UnicodeDecodeError:
        msg = f"the path {os.fsencode(found)!r} is not UTF-8, and a daemon's paths are; name another"
        raise SettingsError(msg) from None
    return found


def working_directory() -> Path | None:
    """Return the working directory; None if it has been deleted."""
    try:
        return Path.cwd()
    except FileNotFoundError:
        return None


def default_state_directory() -> Path:
    """Return ``$STATE_DIRECTORY`` (systemd sets it), else where the platform keeps a user's state."""
    given = os.environ.get("STATE_DIRECTORY", "").split(":")[0]
    return absolute(Path(given) if given else platformdirs.user_state_path("tracker-daemon"))

"""The names of cursors. A cursor is named after its backend; one for FILES entries alone has a suffix."""

from __future__ import annotations

FILES_LANE = ":files"
"""The suffix to a backend's name that names the cursor of its lane for files."""


def backend_of(cursor_name: str) -> str:
    """Return the name of the backend that a cursor belongs to."""
    return cursor_name.removesuffix(FILES_LANE)


def is_files_lane(cursor_name: str) -> bool:
    """Return True if a cursor is that of a lane for files."""
    return cursor_name.endswith(FILES_LANE)

"""Names of runs' directories: safe on every file system, bounded, and different for different runs."""

from __future__ import annotations

import hashlib
import re
import time

NAME_MAX_CHARACTERS = 100
_ID_MAX_CHARACTERS = 40
_HASH_DIGITS = 12
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_NS = 1_000_000_000


def run_directory_name(created_ns: int, label: str) -> str:
    """Return ``YYYYMMDD-HHMMSS-<label>``: the run's beginning in local time, and its label.

    The label is made safe. ``label`` is the run's name, else the id that it was given, else its project.
    """
    moment = time.strftime("%Y%m%d-%H%M%S", time.localtime(created_ns // _NS))
    return f"{moment}-{safe_part(label)}"[:NAME_MAX_CHARACTERS].rstrip("._-")


def with_id(name: str, run_id: str) -> str:
    """Return the directory's name for a run if another directory has ``name``."""
    ending = safe_run_id(run_id, _ID_MAX_CHARACTERS)
    return f"{name[: NAME_MAX_CHARACTERS - len(ending) - 1]}-{ending}"


def safe_part(label: str) -> str:
    """Return ``label`` in characters that are safe in a name; "run" if it has none of them."""
    return _UNSAFE.sub("_", label).strip("._-") or "run"


def safe_run_id(run_id: str, characters_max: int = NAME_MAX_CHARACTERS) -> str:
    """Return a part of a name for a run id: the id if it is safe; else a safe form with a hash of the id."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", run_id).lstrip(".")
    if name and name == run_id and len(name) <= characters_max:
        return name
    digest = hashlib.sha256(run_id.encode(errors="backslashreplace")).hexdigest()[:_HASH_DIGITS]
    return f"{name[: characters_max - _HASH_DIGITS - 1]}-{digest}"

"""File names for the names of items: one function for every backend.

A name that is safe on every file system is kept: at most 100 small letters, digits and ``_ . -``, with no
dot or hyphen at either end. A name that a system or a backend reserves is not safe. Any other name becomes
a safe one, with a hash of the name at its end. So no name leads out of its directory. Two names never share
a file, even on a file system that ignores case. The same name always gives the same file.
"""

from __future__ import annotations

import hashlib
import re

NAME_MAX_CHARACTERS = 100
_HASH_DIGITS = 12
_SAFE = re.compile(r"[a-z0-9_](?:[a-z0-9_.-]*[a-z0-9_])?")
_HASHED = re.compile(rf".*-[0-9a-f]{{{_HASH_DIGITS}}}", re.DOTALL)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_DEVICES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(10)))
)
"""Names that Windows reserves for devices."""
_TAKEN = frozenset(("metrics", "config", "images", "artifacts", "tables", "wandb", "mlflow", "mlartifacts"))
"""Names that backends use themselves."""


def safe_name(name: str) -> str:
    """Return a file or directory name for ``name``, without a suffix for a type."""
    taken = name in _TAKEN or name.partition(".")[0] in _DEVICES
    if _SAFE.fullmatch(name) and len(name) <= NAME_MAX_CHARACTERS and not (taken or _HASHED.fullmatch(name)):
        return name
    digest = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()[:_HASH_DIGITS]
    stem = (
        _UNSAFE.sub("_", name).strip("._-")[: NAME_MAX_CHARACTERS - _HASH_DIGITS - 1].rstrip("._-") or "item"
    )
    if stem.partition(".")[0].lower() in _DEVICES:
        stem = "_" + stem[: NAME_MAX_CHARACTERS - _HASH_DIGITS - 2]
    return f"{stem}-{digest}"

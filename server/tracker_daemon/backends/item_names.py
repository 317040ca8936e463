"""The names of items as names of files: one function for every backend.

A name is kept where it is safe on any file system: small letters, digits and ``_ . -``, at most 100 of them,
not beginning or ending with a dot or a hyphen, and none that a system or a backend has taken. Any other
becomes one that is, with a hash of it behind. So nothing leaves its directory, no two names are one on
a file system that ignores case, and the same name always gives the same file.
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
_TAKEN = frozenset(("metrics", "config", "images", "artifacts", "tables", "wandb", "mlflow", "mlartifacts"))


def safe_name(name: str) -> str:
    """``name`` as that of one file or directory, without its ending."""
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

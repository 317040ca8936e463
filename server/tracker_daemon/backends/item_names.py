"""File names for the names of items: one function for every backend.

A name that is safe on every file system is kept: ``Report``, ``my table``. Such a name has at most 100
letters, digits, inner spaces and ``_ . , + = @ ( ) -``, and a letter, a digit or ``_`` at either end, or
brackets. A name that a system or a backend reserves is not safe. Any other name becomes a safe one, with a
hash of the name at its end. So no name leads out of its directory, and two names never share a file. The
same name always gives the same file.

Where a file system ignores case, ``Report`` and ``report`` are one file: who writes the second one uses
:func:`hashed_name`.
"""

from __future__ import annotations

import hashlib
import re

NAME_MAX_CHARACTERS = 100
_HASH_DIGITS = 12
_SAFE = re.compile(r"[A-Za-z0-9_(](?:[A-Za-z0-9_.,+=@() -]*[A-Za-z0-9_)])?")
_PLAIN = re.compile(r"[A-Za-z0-9_.-]+")
# A date alone is no hash.
_HASHED = re.compile(rf".*-(?=[0-9]{{0,11}}[a-f])[0-9a-f]{{{_HASH_DIGITS}}}", re.DOTALL)
_UNSAFE = re.compile(r"[^A-Za-z0-9_.-]+")
_DEVICES = frozenset(
    ("con", "prn", "aux", "nul", *(f"{name}{number}" for name in ("com", "lpt") for number in range(10)))
)
"""Names that Windows reserves for devices."""
_TAKEN = frozenset(
    ("metrics", "system", "config", "images", "artifacts", "tables", "wandb", "mlflow", "mlartifacts")
)
"""Names that backends use themselves."""


def safe_name(name: str) -> str:
    """Return a file or directory name for ``name``, without a suffix for a type."""
    taken = name.lower() in _TAKEN or name.partition(".")[0].strip().lower() in _DEVICES
    if _SAFE.fullmatch(name) and len(name) <= NAME_MAX_CHARACTERS and not (taken or _HASHED.fullmatch(name)):
        return name
    return hashed_name(name)


def plain_name(name: str) -> str:
    """Return a name as :func:`safe_name`, of letters, digits and ``_ . -`` alone, as W&B's artifacts need."""
    safe = safe_name(name)
    return safe if _PLAIN.fullmatch(safe) else hashed_name(name)


def hashed_name(name: str) -> str:
    """Return a safe name with a hash of ``name`` at its end."""
    digest = _digest(name)
    stem = (
        _UNSAFE.sub("_", name).strip("._-")[: NAME_MAX_CHARACTERS - _HASH_DIGITS - 1].rstrip("._-") or "item"
    )
    if stem.partition(".")[0].lower() in _DEVICES:
        stem = "_" + stem[: NAME_MAX_CHARACTERS - _HASH_DIGITS - 2]
    return f"{stem}-{digest}"


def _digest(name: str) -> str:
    """Return the first digits of a SHA-256 that have a letter among them."""
    digits = hashlib.sha256(name.encode(errors="backslashreplace")).hexdigest()
    found = re.search(rf"(?=[0-9]{{0,11}}[a-f])[0-9a-f]{{{_HASH_DIGITS}}}", digits)
    return found.group() if found else "0" * (_HASH_DIGITS - 1) + "a"

"""The id of a W&B run, which follows from the script's wish or the run's id: both sides know it at once."""

from __future__ import annotations

import hashlib
import re

from tracker_protocol import limits

_ACCEPTED = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_REPLACED = re.compile(r"[^A-Za-z0-9_.-]")


def wandb_id(wanted: str) -> str:
    """Return ``wanted`` if W&B accepts it as an id, else an id made of its characters and a hash."""
    if _ACCEPTED.fullmatch(wanted):
        return wanted
    kept = _REPLACED.sub("-", wanted)[: limits.WANDB_ID_KEPT_CHARACTERS].lstrip("_.-")
    return f"{kept}-{hashlib.sha256(wanted.encode(errors='backslashreplace')).hexdigest()[:12]}".lstrip("-")

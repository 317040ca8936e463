"""``config_history.jsonl``: the changes of the run's configuration, one change per line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tracker_daemon.files.atomic_file import replace_file


def append_history(path: Path, changes: Iterable[Mapping[str, Any]]) -> None:
    """Append the changes whose numbers are not in the file yet, so that a redelivery is harmless.

    A change has ``number``, ``time``, ``attempt``, ``rank``, ``key`` (dotted), ``old`` and ``new``. A change
    without ``new`` removes the key.

    Raises:
        OSError: the file cannot be read or written.
    """
    lines = _lines(path)
    last = _number(lines[-1]) if lines else 0
    new = [json.dumps(change, ensure_ascii=False) for change in changes if change["number"] > last]
    if new:
        text = "".join(f"{line}\n" for line in [*lines, *new])
        replace_file(path, text.encode(errors="backslashreplace"))


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(errors="replace").splitlines()
    except FileNotFoundError:
        return []


def _number(line: str) -> int:
    """Return the number of the change in ``line``; 0 for a line that another program wrote."""
    try:
        return int(json.loads(line)["number"])
    except (ValueError, TypeError, KeyError):
        return 0

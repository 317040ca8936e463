"""``config.json``: the run's configuration, merged into what is there and replaced as a whole."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from tracker_daemon.files.atomic_file import replace_file


def merge_config(path: Path, updates: Iterable[Mapping[str, Any]]) -> None:
    """Merge ``updates`` into the file in order, key by key at the top level only.

    Doing it again changes nothing, so a redelivery is harmless. What is there and is not a JSON
    object is replaced.

    Raises:
        OSError: the file cannot be read or written.
    """
    merged = _read(path)
    for update in updates:
        merged.update(update)
    text = json.dumps(merged, indent=2, ensure_ascii=False)
    # A lone surrogate cannot be UTF-8, and its escape is how JSON spells it anyway.
    replace_file(path, text.encode(errors="backslashreplace") + b"\n")


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

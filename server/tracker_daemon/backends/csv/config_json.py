"""``config.json``: the run's configuration. New values are merged and the file is replaced as a whole."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from tracker_daemon.files.atomic_file import replace_file


def merge_config(
    path: Path, updates: Iterable[Mapping[str, Any]], announce: Callable[[bytes], None] = lambda _: None
) -> None:
    """Merge ``updates`` into the file in order, key by key at the top level only.

    A repeated merge changes nothing, so a redelivery is harmless. A file that holds no JSON object is
    replaced. ``announce`` is called with the file's new content, before it is written.

    Raises:
        OSError: the file cannot be read or written.
    """
    merged = _read(path)
    for update in updates:
        merged.update(update)
    text = json.dumps(merged, indent=2, ensure_ascii=False)
    # UTF-8 cannot encode a lone surrogate; the escape that is written is how JSON spells one.
    data = text.encode(errors="backslashreplace") + b"\n"
    announce(data)
    replace_file(path, data)


def _read(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}

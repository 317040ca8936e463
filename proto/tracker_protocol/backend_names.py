"""A list of backends, as users write it: names separated by commas, or "none"."""

from __future__ import annotations

from collections.abc import Iterable


def split_backend_names(backends: str | Iterable[object]) -> list[str]:
    """Return the names of ``backends`` in lower case and in order, each once; none for "none".

    Args:
        backends: names separated by commas, or one name an item.
    """
    names = backends.split(",") if isinstance(backends, str) else map(str, backends)
    wanted = dict.fromkeys(name.strip().lower() for name in names)
    return [name for name in wanted if name and name != "none"]

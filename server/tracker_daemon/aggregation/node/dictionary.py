"""The dictionary of a node's own stream: metric names, in which a key is a place."""

from __future__ import annotations

from collections.abc import Iterable

from tracker_daemon.aggregation.values.batch import Keys
from tracker_protocol import limits

_FIELD_BYTES = 8
"""The tag and length of a name in a message, at most."""


class NodeDictionary:
    """The metrics that the node has named to the root, by their keys, and those that it will name.

    All of them must fit a Hello, which brings the whole dictionary on each new connection.
    """

    def __init__(self, names: Iterable[str] = (), awaited: Iterable[str] = ()) -> None:
        self.names = list(names)
        self.awaited = set(awaited)
        self._keys = {name: key for key, name in enumerate(self.names)}
        self._bytes = sum(map(name_bytes, (*self.names, *self.awaited)))

    def admit(self, name: str) -> bool:
        """Return True if there is a place for this metric; the place is then kept for it."""
        if name in self._keys or name in self.awaited:
            return True
        size = name_bytes(name)
        if self._bytes + size > limits.HELLO_NAMES_MAX_BYTES:
            return False
        if len(self._keys) + len(self.awaited) >= limits.METRICS_PER_RUN_MAX:
            return False
        self._bytes += size
        self.awaited.add(name)
        return True

    def keys(self, names: Iterable[str]) -> Keys:
        """Return the keys of admitted metrics; each new one is named with this."""
        return tuple(self._key(name) for name in names)

    def _key(self, name: str) -> int:
        key = self._keys.get(name)
        if key is None:
            self.awaited.discard(name)
            key = self._keys[name] = len(self.names)
            self.names.append(name)
        return key


def name_bytes(name: str) -> int:
    """Return the bytes of a name in a message, at most."""
    return len(name.encode()) + _FIELD_BYTES

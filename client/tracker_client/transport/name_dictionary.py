"""The metric names of a stream, each with an index that batches use instead of the name."""

from __future__ import annotations

from tracker_protocol import limits

NAME_OVERHEAD_BYTES = 4


def name_bytes(name: str) -> int:
    """Return the bytes that ``name`` needs in a message."""
    return len(name.encode()) + NAME_OVERHEAD_BYTES


class NameDictionary:
    """Metric names by index; bounded so that a Hello can always carry all of them."""

    def __init__(self) -> None:
        self.names: list[str] = []
        self.announced = 0
        """The number of names that are in a batch already."""
        self._indices: dict[str, int] = {}
        self._bytes = 0

    def index(self, name: object) -> int:
        """Return the index of ``name``, new or known.

        Raises:
            ValueError: no metric can have this name; the message gives the reason.
        """
        if type(name) is not str:
            if not isinstance(name, str):
                raise ValueError(
                    f"a metric's name is a text, not a {type(name).__name__}; it is not recorded"
                )
            name = str.__str__(name)
        known = self._indices.get(name)
        return self._add(name) if known is None else known

    def _add(self, name: str) -> int:
        try:
            size = len(name.encode())
        except UnicodeEncodeError:
            raise ValueError("this name is not valid Unicode; it is not recorded") from None
        if not 1 <= size <= limits.METRIC_NAME_MAX_BYTES:
            raise ValueError(f"a metric's name has 1 to {limits.METRIC_NAME_MAX_BYTES} bytes, not {size}")
        full = self._bytes + size + NAME_OVERHEAD_BYTES > limits.HELLO_NAMES_MAX_BYTES
        if full or len(self.names) >= limits.METRICS_PER_RUN_MAX:
            raise ValueError(f"this process has logged {len(self.names)} names, as many as a run may have")
        self._bytes += size + NAME_OVERHEAD_BYTES
        self._indices[name] = len(self.names)
        self.names.append(name)
        return len(self.names) - 1

    def take_unannounced(self) -> tuple[int, list[str]]:
        """Return the next names that no batch has, as many as fit one batch, and the index of the first.

        They count as announced from now on.
        """
        first, size = self.announced, 0
        while self.announced < len(self.names):
            size += name_bytes(self.names[self.announced])
            if size > limits.BATCH_TARGET_BYTES:
                break
            self.announced += 1
        return first, self.names[first : self.announced]

"""Reader of a ``.wandb`` file: the transaction log in which the W&B SDK keeps all data, online and offline.

The file has a header of seven bytes (``:W&B``, a magic number, a version) and then blocks of 32 KiB in
LevelDB's log format. A fragment consists of a CRC-32 (of type and data), length, type (whole, first,
middle, last) and data. Fewer than 7 bytes at the end of a block are zeros. A record is a
``wandb.proto.wandb_internal_pb2.Record``.

The file may still grow. An incomplete fragment ends a reading, and the next reading starts with it.
"""

from __future__ import annotations

import json
import struct
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from typing import Any, BinaryIO

from tracker_daemon.errors import BackendRefused

BLOCK_BYTES = 32 * 1024
_FILE_HEADER = b":W&B"
_FILE_HEADER_BYTES = 7
_FRAGMENT = struct.Struct("<IHB")
_WHOLE, _FIRST, _MIDDLE, _LAST = 1, 2, 3, 4
_ADDED_BY_WANDB = frozenset({"_step", "_runtime"})
_WANDB_CONFIG = "_wandb"
_SUMMARIES = frozenset({"min", "max", "mean", "last", "none"})


@dataclass(frozen=True, slots=True)
class LoggedRow:
    """A row of the run's history: W&B's own step, and the logged values."""

    step: int
    values: dict[str, Any]


@dataclass(frozen=True, slots=True)
class LoggedConfig:
    """A change of the run's configuration."""

    values: dict[str, Any]
    initial: bool = False
    """True in the record that begins the run; False in later changes."""


@dataclass(frozen=True, slots=True)
class LoggedMetric:
    """The definition of one metric: its axis, and its summary ("" for W&B's own)."""

    name: str
    step_metric: str
    summary: str = ""


@dataclass
class TransactionLog:
    """Reads one ``.wandb`` file, each time from the end of the last reading."""

    path: Path
    rows: int = 0
    """The number of history rows read so far."""
    config_changes: int = 0
    """The number of configuration changes read so far, including those without effect."""
    _offset: int = field(default=0, repr=False)

    def read(self) -> Iterator[LoggedRow | LoggedConfig | LoggedMetric]:
        """Yield the rows, configurations and definitions that were added since the last reading."""
        for payload in self.payloads():
            found = _decoded(payload)
            if isinstance(found, LoggedRow):
                self.rows += 1
            elif isinstance(found, LoggedConfig):
                self.config_changes += not found.initial
            if found is not None:
                yield found

    def advance(self) -> bool:
        """Read and count the added records; return True if there were any."""
        before = self._offset
        for _ in self.read():
            pass
        return self._offset > before

    def payloads(self) -> Iterator[bytes]:
        """Yield the records that were added since the last reading, as they are written."""
        try:
            file = self.path.open("rb")
        except FileNotFoundError:
            return
        with file:
            if not self._offset and not self._read_header(file):
                return
            file.seek(self._offset)
            yield from self._complete_records(file)

    def _read_header(self, file: BinaryIO) -> bool:
        header = file.read(_FILE_HEADER_BYTES)
        if len(header) < _FILE_HEADER_BYTES:
            return False
        if not header.startswith(_FILE_HEADER):
            raise BackendRefused(
                f"{self.path} is not a .wandb file as this version knows it; use the version of wandb that "
                "wrote it, or move the file away to continue without its rows"
            )
        self._offset = len(header)
        return True

    def _complete_records(self, file: BinaryIO) -> Iterator[bytes]:
        """Yield the complete records; ``_offset`` becomes the end of the last one."""
        parts: list[bytes] = []
        for kind, data, end in _fragments(file):
            parts = [data] if kind in {_WHOLE, _FIRST} else [*parts, data]
            if kind in {_WHOLE, _LAST}:
                self._offset = end
                yield b"".join(parts)


def _fragments(file: BinaryIO) -> Iterator[tuple[int, bytes, int]]:
    """Yield type, data and end of each fragment from the file's position to the first incomplete one."""
    at = file.tell()
    while True:
        left = BLOCK_BYTES - at % BLOCK_BYTES
        block = file.read(left)
        used = 0
        while len(block) - used >= _FRAGMENT.size:
            crc, length, kind = _FRAGMENT.unpack_from(block, used)
            begin, end = used + _FRAGMENT.size, used + _FRAGMENT.size + length
            if end > len(block) or not _WHOLE <= kind <= _LAST or zlib.crc32(block[begin - 1 : end]) != crc:
                return
            yield kind, block[begin:end], at + end
            used = end
        if len(block) < left:
            return
        at += left


def _decoded(payload: bytes) -> LoggedRow | LoggedConfig | LoggedMetric | None:
    # Imported here, so that an import of the backend does not import wandb.
    record = import_module("wandb.proto.wandb_internal_pb2").Record.FromString(payload)
    kind = record.WhichOneof("record_type")
    if kind == "history":
        values = _values(record.history.item)
        step = record.history.step.num if record.history.HasField("step") else values.get("_step", -1)
        return LoggedRow(step, {key: value for key, value in values.items() if key not in _ADDED_BY_WANDB})
    if kind == "config":
        return LoggedConfig(_configuration(record.config.update))
    if kind == "run":
        return LoggedConfig(_configuration(record.run.config.update), initial=True)
    if kind == "metric" and record.metric.name:
        summary = record.metric.summary
        kinds = [field.name for field, value in summary.ListFields() if field.name in _SUMMARIES and value]
        return LoggedMetric(record.metric.name, record.metric.step_metric, next(iter(kinds), ""))
    return None


def _configuration(items: Any) -> dict[str, Any]:
    return {key: value for key, value in _values(items).items() if key != _WANDB_CONFIG}


def _values(items: Any) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for item in items:
        *outer, last = item.nested_key or (item.key,)
        into = values
        for key in outer:
            into = into.setdefault(key, {})
        into[last] = json.loads(item.value_json)
    return values

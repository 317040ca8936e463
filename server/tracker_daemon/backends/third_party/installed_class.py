"""A third party's ``tracker_client.TrackerBackend`` as a backend: fed with rows, in the daemon's process.

The class is constructed as the seed's users know it, and called on the pump's thread alone. What it raises is
contained. An OSError is taken for an outage and tried again for ever, as for any backend. Anything else may
be the row's fault: after a few tries in vain the row is set aside, and the next one is given. The state is
how far the class has come, so that it is given a row again only if the daemon dies between the class's
return and the commit; after a restart another instance goes on from there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any, TypeVar

import msgspec

from tracker_client.backends.base import TrackerBackend
from tracker_client.backends.script_classes import ScriptClass
from tracker_daemon.aggregation.shared.record import RecordBlock
from tracker_daemon.backends.base import Backend, Commit, RunDescription, SetAside
from tracker_daemon.backends.decoding import read_block, read_state
from tracker_daemon.errors import BackendRefused, BackendUnavailable, PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol import limits

Call = Callable[[], object]
T = TypeVar("T")


class _Progress(msgspec.Struct, frozen=True):
    """The class has had all entries up to ``through``, and ``rows`` rows of the one after it."""

    through: int = 0
    rows: int = 0


class _End(msgspec.Struct, frozen=True):
    status: str
    reason: str = ""


class InstalledClassBackend(Backend):
    """Gives a run's records, configuration and end to an instance of ``cls``."""

    def __init__(self, name: str, cls: type[TrackerBackend]) -> None:
        self.name = name  # type: ignore[misc]  # each is another backend
        self._cls = cls
        self._instance: TrackerBackend | None = None
        self._progress = _Progress()
        self._tries = (_Progress(), 0)
        self._set_aside: list[SetAside] = []

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Construct the class, unless it is there from before an error; see :class:`Backend`."""
        self._progress = read_state(state, _Progress, self.name) or _Progress()
        if self._instance is not None:
            return
        described = {
            "project_name": run.project, "config": {}, "outdir": str(run.outdir), "rank": 0,
        }  # fmt: skip
        try:
            self._instance = ScriptClass(self._cls, run.options).construct(**described)
        except OSError as error:
            raise BackendUnavailable(f"{self._shown} cannot be constructed now: {error!r}") from error
        # The class is anyone's code; whatever its constructor raises concerns this backend alone.
        except Exception as error:
            raise BackendRefused(
                f"{self._shown} cannot be constructed: {error!r}; look at the options that setup_tracker was "
                f"given for it, and at the package that registers it"
            ) from error

    def deliver(self, entries: Sequence[OutboxEntry], commit: Commit) -> bytes:
        """Give ``entries`` to the class in order; see :class:`Backend`."""
        self._set_aside = [one for one in self._set_aside if one.entry >= entries[0].number]
        for entry in entries:
            if entry.number <= self._progress.through:
                continue
            for call in self._calls(entry, self._progress.rows):
                self._give(call, entry, commit)
                self._progress = msgspec.structs.replace(self._progress, rows=self._progress.rows + 1)
            self._progress = _Progress(entry.number)
            if entry.kind is EntryKind.END:
                self._instance = None  # another attempt has another
        return self._state

    def set_aside(self) -> Sequence[SetAside]:
        """The rows that the class raised for again and again."""
        return self._set_aside

    def close(self) -> None:
        """Keep the class: after an error it goes on."""

    def _calls(self, entry: OutboxEntry, skip: int) -> Iterator[Call]:
        """What the class is to be called with for ``entry``, without the first ``skip`` of its rows."""
        instance = self._opened()
        if entry.kind is EntryKind.RECORDS:
            for step, metrics in _rows(read_block(entry), skip):
                yield partial(instance.log, metrics, step=step)
        elif entry.kind is EntryKind.CONFIG:
            yield partial(instance.log_config, _decoded(entry, dict[str, Any]))
        elif entry.kind is EntryKind.END:
            failed = _decoded(entry, _End).status == "FAILED"
            yield partial(instance.finish_with, 1 if failed else 0)

    def _give(self, call: Call, entry: OutboxEntry, commit: Commit) -> None:
        """Make one call; what it raises is an error to try again, or the last of too many."""
        try:
            call()
        # As above: anyone's code. PoisonEntry would have the pump throw away the whole entry.
        except Exception as error:
            at, tries = self._tries
            tries = tries + 1 if at == self._progress else 1
            self._tries = (self._progress, tries)
            if isinstance(error, OSError) or tries < limits.INSTALLED_CLASS_TRIES_MAX:
                commit(self._state)
                raise BackendUnavailable(f"{self._shown} raised {error!r}; it is called again") from error
            records = int(entry.kind is EntryKind.RECORDS)
            self._set_aside.append(SetAside(entry.number, records, f"{self._shown} raised {error!r}"))

    @property
    def _state(self) -> bytes:
        return msgspec.msgpack.encode(self._progress)

    @property
    def _shown(self) -> str:
        return f"the class {self._cls.__module__}.{self._cls.__qualname__} of backend {self.name!r}"

    def _opened(self) -> TrackerBackend:
        if self._instance is None:
            raise BackendUnavailable(f"the backend {self.name!r} is not open; open it with its last state")
        return self._instance


def _decoded(entry: OutboxEntry, kind: type[T]) -> T:
    try:
        return msgspec.json.decode(entry.payload, type=kind)
    except msgspec.DecodeError as error:
        raise PoisonEntry(f"outbox entry {entry.number} cannot be read: {error}") from error


def _rows(block: RecordBlock, skip: int) -> Iterator[tuple[int, dict[str, float | str]]]:
    texts: dict[int, dict[str, str]] = {}
    for cell in block.texts:
        texts.setdefault(cell.row, {})[cell.column] = cell.value
    values, steps = block.values.tolist(), block.steps.tolist()
    for row in range(skip, len(block)):
        cells = dict(zip(block.columns, values[row], strict=True))
        if block.valid is not None:
            there = zip(block.columns, block.valid[row].tolist(), strict=True)
            cells = {name: cells[name] for name, valid in there if valid}
        yield steps[row], {**cells, **texts.get(row, {})}

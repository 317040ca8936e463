"""A class of an installed package as a backend: a ``tracker_client.TrackerBackend`` in the daemon's process.

The class is constructed with the arguments that ``TrackerBackend`` documents, and called on the pump's
thread alone. Its errors affect this backend only. An OSError counts as an outage, and the call is repeated
for ever. Any other error may be the fault of the row: after a few attempts the row is set aside, and the
next one is given to the class.

The state is the progress of the class. So a row is given twice only if the daemon dies between the return
of the class and the commit. After a restart of the daemon another instance of the class continues.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import islice

import msgspec

from tracker_client.backends.calls import AnyBackend, call, finish
from tracker_client.backends.script_classes import ScriptClass
from tracker_daemon.backends.base import Backend, Commit, RunDescription, RunStatus, SetAside, not_open
from tracker_daemon.backends.decoding import read_block, read_config, read_end, read_state, rows_of
from tracker_daemon.errors import BackendRefused, BackendUnavailable
from tracker_daemon.outbox.entries import CONFIGS, EntryKind, OutboxEntry
from tracker_protocol import limits

Action = Callable[[], object]


class _Progress(msgspec.Struct, frozen=True):
    """The class has received all entries up to ``through``, and ``rows`` rows of the next entry."""

    through: int = 0
    rows: int = 0


class InstalledClassBackend(Backend):
    """Gives a run's records, configuration and end to an instance of ``cls``."""

    def __init__(self, name: str, cls: type[AnyBackend]) -> None:
        self.name = name  # type: ignore[misc]  # the package chooses the name
        self._cls = cls
        self._instance: AnyBackend | None = None
        self._progress = _Progress()
        self._tries = (_Progress(), 0)
        self._set_aside: list[SetAside] = []

    def open(self, run: RunDescription, state: bytes | None) -> None:
        """Construct the class, unless an instance is left from before an error; see :class:`Backend`."""
        self._progress = read_state(state, _Progress, self.name) or _Progress()
        if self._instance is not None:
            return
        described = {
            "project_name": run.project, "config": {}, "outdir": str(run.directory or run.outdir), "rank": 0,
        }  # fmt: skip
        try:
            self._instance = ScriptClass(self._cls, run.options).construct(**described)
        except OSError as error:
            raise BackendUnavailable(f"{self._shown} cannot be constructed now: {error!r}") from error
        # The class is anyone's code; any error of its constructor concerns this backend alone.
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
            for action in self._calls(entry, self._progress.rows):
                self._make(action, entry, commit)
                self._progress = msgspec.structs.replace(self._progress, rows=self._progress.rows + 1)
            self._progress = _Progress(entry.number)
            if entry.kind is EntryKind.END:
                self._instance = None  # a later attempt constructs another instance
        return self._state

    def set_aside(self) -> Sequence[SetAside]:
        """Return the rows for which the class raised again and again."""
        return self._set_aside

    def close(self) -> None:
        """Keep the instance: after an error it continues."""

    def _calls(self, entry: OutboxEntry, skip: int) -> Iterator[Action]:
        """Yield the calls of the class for ``entry``, without the first ``skip`` of its rows."""
        instance = self._opened()
        if entry.kind is EntryKind.RECORDS:
            for row in islice(rows_of(read_block(entry)), skip, None):
                yield partial(instance.log, row.cells, step=row.step, commit=True)
        elif entry.kind in CONFIGS:
            yield partial(call, instance, "log_config", read_config(entry))
        elif entry.kind is EntryKind.END:
            failed = read_end(entry).status is RunStatus.FAILED
            yield partial(finish, instance, 1 if failed else 0)

    def _make(self, action: Action, entry: OutboxEntry, commit: Commit) -> None:
        """Make one call. After an error either ask for a retry or, after too many, set the row aside."""
        try:
            action()
        # The class is anyone's code, as above. A PoisonEntry would set the whole entry aside.
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

    def _opened(self) -> AnyBackend:
        if self._instance is None:
            raise not_open(self.name)
        return self._instance

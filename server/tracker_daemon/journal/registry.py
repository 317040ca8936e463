"""Runs and streams: their rows, and the part of them that every append needs, in memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import astuple, dataclass, fields, replace

from tracker_daemon.errors import JournalError
from tracker_daemon.journal.database import Database, Row
from tracker_daemon.journal.event import Event, sequence_after
from tracker_daemon.journal.rows import RUNNING, RunRow, StreamRow

_RUN_COLUMNS = tuple(field.name for field in fields(RunRow))
_STREAM_COLUMNS = tuple(field.name for field in fields(StreamRow))
_RUN_MUTABLE = frozenset(_RUN_COLUMNS) - {"id"}
_STREAM_MUTABLE = frozenset(_STREAM_COLUMNS) - {"stream_id", "run"}

_SELECT_RUNS = f"SELECT {', '.join(_RUN_COLUMNS)} FROM run ORDER BY id"  # noqa: S608 - our own names
_SELECT_STREAMS = f"SELECT {', '.join(_STREAM_COLUMNS)} FROM stream"  # noqa: S608 - our own names


def _insert(table: str, columns: Sequence[str]) -> str:
    marks = ", ".join("?" * len(columns))
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})"  # noqa: S608 - our own names


_NEXT_ORDINAL = 1
"""The value of the column ``next_ordinal``, which nothing reads: the run's fold has that number."""
_INSERT_RUN = _insert("run", (*_RUN_COLUMNS[1:], "next_ordinal"))


@dataclass(slots=True)
class _StreamState:
    """A stream's run and its next sequence."""

    run: int
    next_sequence: int


class Registry:
    """The tables ``run`` and ``stream``."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.load()

    def load(self) -> None:
        """Load the state in memory from the database."""
        self._ended: dict[int, bool] = {
            run: status != RUNNING for run, status in self._database.all("SELECT id, status FROM run")
        }
        rows = self._database.all("SELECT stream_id, run, next_sequence FROM stream")
        self._stream_states = {stream: _StreamState(run, sequence) for stream, run, sequence in rows}

    # ---- runs ----

    def insert_run(self, row: RunRow) -> int:
        """Store a new run and return its id."""
        run = self._database.insert(_INSERT_RUN, (*astuple(row)[1:], _NEXT_ORDINAL))
        self._ended[run] = row.status != RUNNING
        return run

    def update_run(self, run: int, changes: dict[str, object]) -> None:
        """Change some columns of a run."""
        self.require_run(run)
        self._update("run", "id", run, changes, _RUN_MUTABLE)
        if "status" in changes:
            self._ended[run] = changes["status"] != RUNNING

    def runs(self) -> list[RunRow]:
        """Return every run in the order of their ids."""
        return [RunRow(*row) for row in self._database.all(_SELECT_RUNS)]

    def run_ids(self) -> list[int]:
        """Return every run's id."""
        return list(self._ended)

    def ended(self, run: int) -> bool:
        """Return True if a run has ended."""
        return self._ended[run]

    def require_run(self, run: int) -> None:
        """Raise JournalError unless the run exists."""
        if run not in self._ended:
            raise JournalError(f"there is no run with row id {run}")

    # ---- streams ----

    def insert_stream(self, row: StreamRow) -> None:
        """Store a new stream."""
        self.require_run(row.run)
        if row.stream_id in self._stream_states:
            raise JournalError(f"stream {row.stream_id.hex()} exists already")
        self._database.execute(_insert("stream", _STREAM_COLUMNS), astuple(row))
        self._stream_states[row.stream_id] = _StreamState(row.run, row.next_sequence)

    def update_stream(self, stream: bytes, changes: dict[str, object]) -> None:
        """Change some columns of a stream."""
        state = self._state_of(stream)
        sequence = changes.get("next_sequence", state.next_sequence)
        if not isinstance(sequence, int):
            raise JournalError(f"a stream's next sequence cannot be {sequence!r}")
        self._update("stream", "stream_id", stream, changes, _STREAM_MUTABLE)
        state.next_sequence = sequence

    def streams(self, run: int | None) -> list[StreamRow]:
        """Return the streams of one run, or all."""
        if run is None:
            rows = self._database.all(_SELECT_STREAMS)
        else:
            rows = self._database.all(f"{_SELECT_STREAMS} WHERE run = ?", (run,))
        return [_stream_row(row) for row in rows]

    # ---- sequences ----

    def plan(self, events: Sequence[Event]) -> dict[bytes, int]:
        """Check events against their runs and streams; return each stream's next sequence after them.

        Raises:
            JournalError: an unknown run or stream, another run's stream, a sequence that is not the next.
        """
        planned: dict[bytes, int] = {}
        for event in events:
            self.require_run(event.run)
            after = sequence_after(event)
            if after is None:
                continue
            state = self._state_of(event.stream)
            expected = planned.get(event.stream, state.next_sequence)
            if event.run != state.run:
                raise JournalError(f"stream {event.stream.hex()} is of run {state.run}, not {event.run}")
            if event.sequence != expected:
                raise JournalError(
                    f"stream {event.stream.hex()} continues at sequence {expected}, not {event.sequence}"
                )
            planned[event.stream] = after
        return planned

    def advance(self, planned: dict[bytes, int]) -> None:
        """Store what :meth:`plan` found: one update for each stream, however many events it had."""
        if not planned:
            return
        changed = self._database.execute_many(
            "UPDATE stream SET next_sequence = ? WHERE stream_id = ?",
            [(sequence, stream) for stream, sequence in planned.items()],
        )
        if changed != len(planned):
            self._database.fail(f"{len(planned) - changed} streams that are known are not in the database")
        for stream, sequence in planned.items():
            self._stream_states[stream].next_sequence = sequence

    def _state_of(self, stream: bytes) -> _StreamState:
        state = self._stream_states.get(stream)
        if state is None:
            raise JournalError(f"there is no stream {stream.hex()}")
        return state

    def _update(
        self, table: str, key_column: str, key: object, changes: dict[str, object], allowed: frozenset[str]
    ) -> None:
        unknown = changes.keys() - allowed
        if unknown:
            raise JournalError(f"a {table} has no column {', '.join(sorted(unknown))} that may be changed")
        if changes:
            assignments = ", ".join(f"{column} = ?" for column in changes)
            # The columns are in ``allowed``, a set of our own.
            sql = f"UPDATE {table} SET {assignments} WHERE {key_column} = ?"  # noqa: S608
            self._database.execute(sql, (*changes.values(), key))


def _stream_row(row: Row) -> StreamRow:
    found = StreamRow(*row)
    return replace(found, finished=bool(found.finished))

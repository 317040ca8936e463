"""From rows to batches within the message limits: checks names and values, and decides what shares a batch.

New names and configurations travel in batches of their own, ahead of the rows that need them: rows may have
to be dropped later, names never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from tracker_client.staging.rows import LoggedRow
from tracker_client.transport.blocks import NUMBER_BYTES, BatchBlocks, text_bytes
from tracker_client.transport.body import Body, finish_body, names_body, rows_body
from tracker_client.transport.name_dictionary import NameDictionary
from tracker_client.values.exit_status import ExitStatusFile
from tracker_client.values.refusals import Refusals
from tracker_client.values.snapshot import PLAIN
from tracker_protocol import limits
from tracker_protocol.kinds import ROUNDING

_STEP_MIN, _STEP_MAX = -limits.STEP_MAX, limits.STEP_MAX


class Encoder:
    """Builds one batch at a time. ``dropped_points()`` returns the count that each batch carries."""

    def __init__(self, refusals: Refusals, dropped_points: Callable[[], int]) -> None:
        self.dictionary = NameDictionary()
        self._refusals = refusals
        self._dropped_points = dropped_points
        self._blocks = BatchBlocks()

    # ---- rows ------------------------------------------------------------------------------------

    def add(self, row: LoggedRow) -> list[Body]:
        """Add one row; return the batches that are full because of the row."""
        if not _STEP_MIN <= row.step <= _STEP_MAX:
            self._refusals.refuse("step", f"a step lies beyond ±{limits.STEP_MAX}", values=len(row.values))
            return []
        try:
            return [] if self._blocks.add_numbers(row) else self._add_mixed(row)
        except Exception as error:  # noqa: BLE001 - a key's hash and comparison are the user's code
            self._refusals.refuse("a row", f"encoding it raised {error!r}", values=len(row.values))
            return []

    def _add_mixed(self, row: LoggedRow) -> list[Body]:
        """Add any row: check each name and value, part numbers from texts, split wide rows."""
        numbers: dict[int, float] = {}
        texts: dict[int, str] = {}
        for name, value in row.values.items():
            self._sort_in(name, value, numbers, texts)
        full: list[Body] = []
        for part in _parts(numbers, lambda _: NUMBER_BYTES):
            full += self._add_part(row, part, is_text=False)
        for part in _parts(texts, text_bytes):
            full += self._add_part(row, part, is_text=True)
        return full

    def _sort_in(self, name: Any, value: Any, numbers: dict[int, float], texts: dict[int, str]) -> None:
        try:
            index = self.dictionary.index(name)
            if isinstance(value, str):
                texts[index] = value.encode("utf-8", "replace").decode()
            else:
                number = float(value)
                numbers[index] = value if type(value) in PLAIN else number
        except (TypeError, ValueError) as error:
            self._refusals.refuse(name, str(error))
        except OverflowError:
            self._refusals.refuse(name, "an integer is too large for a float64; it is not recorded")

    def _add_part(self, row: LoggedRow, part: dict[int, Any], *, is_text: bool) -> list[Body]:
        full = [] if self._blocks.fits(part, is_text=is_text) else self.close()
        self._blocks.add(row, part, is_text=is_text)
        return full

    # ---- batches ---------------------------------------------------------------------------------

    def close(self, *, flushed: bool = False) -> list[Body]:
        """Return the batch as it is, after batches that announce its names; nothing if it has no row."""
        if not self._blocks.blocks:
            return []
        for key in {key for block in self._blocks.blocks for key in block.wide_integers()}:
            self._refusals.warn_once(self.dictionary.names[key], ROUNDING)
        rows = rows_body(self._blocks, dropped_points=self._dropped_points(), flushed=flushed)
        self._blocks = BatchBlocks()
        return [*self._announcements(), rows]

    def _announcements(self) -> Iterator[Body]:
        while True:
            first, names = self.dictionary.take_unannounced()
            if not names:
                return
            yield names_body(first, names)

    def finish(self, exit_code: int | None, exit_status: ExitStatusFile | None = None) -> Body:
        """Return the last batch of the stream; without a code it names the file of the exit status."""
        return finish_body(exit_code, exit_status, dropped_points=self._dropped_points())


def _parts(values: dict[int, Any], size_of: Callable[[Any], int]) -> Iterator[dict[int, Any]]:
    """Divide ``values`` into parts that each fit a message: one part, except for very wide rows."""
    part: dict[int, Any] = {}
    size = 0
    for key, value in values.items():
        size += size_of(value)
        if part and (len(part) >= limits.METRICS_PER_ROW_MAX or size > limits.BATCH_TARGET_BYTES):
            yield part
            part, size = {}, size_of(value)
        part[key] = value
    if part:
        yield part

"""From calls to decoded batches: what the daemon decodes is what the rules make of the calls."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from tests.support.rows_oracle import Call, Row, Values, rows_of
from tracker_client.staging.rows import RowAssembler
from tracker_client.transport.encoder import Encoder
from tracker_client.values.refusals import Refusals
from tracker_daemon.wire.batches import decode_batch
from tracker_protocol import limits
from tracker_protocol.kinds import Kind

_KINDS = {Kind.FLOAT: float, Kind.INT: int, Kind.BOOL: bool}


class Stream:
    """A rank's way from its calls to the daemon, without a network."""

    def __init__(self) -> None:
        refusals = Refusals()
        self.assembler = RowAssembler(0, refusals)
        self.encoder = Encoder(refusals, lambda: 0)
        self.names: list[str] = []
        self.parts: list[tuple[int, int, str, object]] = []
        """(row, step, name, value), in the order of the batches."""

    def log(self, calls: list[Call], *, flush_every: int = 1_000_000) -> Stream:
        for number, call in enumerate(calls, 1):
            entry = (call.step, number, dict(call.values), call.commit is None or call.commit)
            self._send(self.assembler.add(entry))
            if number % flush_every == 0:
                self._decode(self.encoder.close())
        self._send(self.assembler.end())
        self._decode(self.encoder.close())
        return self

    def _send(self, rows: list) -> None:
        for row in rows:
            self._decode(self.encoder.add(row))

    def _decode(self, bodies: list) -> None:
        for body in bodies:
            batch = decode_batch(body.data, len(self.names))
            self.names += batch.names
            for block in batch.rows:
                for i, number in enumerate(block.row_numbers.tolist()):
                    for column, key in enumerate(block.keys):
                        kind = Kind.FLOAT if block.kinds is None else Kind(block.kinds[i, column])
                        value = _KINDS[kind](block.values[i, column])
                        self.parts.append((number, int(block.steps[i]), self.names[key], value))
            for block in batch.texts:
                for i, number in enumerate(block.row_numbers.tolist()):
                    for key, text in zip(block.keys, block.values[i], strict=True):
                        self.parts.append((number, int(block.steps[i]), self.names[key], text))

    def rows(self) -> list[Row]:
        """The rows, in the order of their numbers."""
        rows: dict[int, Row] = {}
        for number, step, name, value in self.parts:
            row = rows.setdefault(number, Row(step, {}))
            assert row.step == step
            assert name not in row.values
            row.values[name] = value
        return [rows[number] for number in sorted(rows)]

    def series(self, name: str) -> list[object]:
        """The values of a metric in the order in which batches list them."""
        return [value for _, _, other, value in self.parts if other == name]


def typed(rows: list[Row]) -> str:
    """The rows as text, in which 1, 1.0 and True differ."""
    return json.dumps([[row.step, dict(sorted(row.values.items()))] for row in rows])


VALUES = st.floats(allow_nan=False) | st.integers(-9, 9) | st.booleans() | st.sampled_from(["x", "y"])
STEPS = st.none() | st.integers(0, 4) | st.just(2 * limits.STEP_MAX)
KEYS = st.integers(0, 4) | st.sampled_from([0.5, 2.0, True, "3", 2 * limits.STEP_MAX])
CALLS = st.lists(
    st.builds(
        Call,
        st.dictionaries(st.sampled_from("abcd"), VALUES, max_size=3)
        | st.fixed_dictionaries({"step": KEYS, "a": VALUES}, optional={"b": VALUES}),
        STEPS,
        st.sampled_from([True, True, False, None]),
    )
)


@given(CALLS, st.integers(1, 5))
def test_what_is_decoded_is_the_rows_of_the_calls_with_the_kinds_of_their_values(
    calls: list[Call], flush_every: int
) -> None:
    stream = Stream().log(calls, flush_every=flush_every)
    expected = rows_of(calls)
    assert typed(stream.rows()) == typed(expected)


@given(CALLS, st.integers(1, 5))
def test_the_values_of_each_metric_stay_in_the_order_logged(calls: list[Call], flush_every: int) -> None:
    stream = Stream().log(calls, flush_every=flush_every)
    for name in "abcd":
        # Numbers and texts are listed apart.
        for kind in (str, (float, int)):
            logged = [row.values[name] for row in rows_of(calls) if isinstance(row.values.get(name), kind)]
            assert repr([v for v in stream.series(name) if isinstance(v, kind)]) == repr(logged)


def test_a_thousand_values_of_one_key_at_one_step_are_a_thousand_rows() -> None:
    calls = [Call({"return": float(value), "length": value}, step=20) for value in range(1_000)]
    rows = Stream().log(calls).rows()
    assert rows == [Row(20, {"return": float(value), "length": value}) for value in range(1_000)]


def test_a_thousand_descending_steps_are_a_thousand_rows() -> None:
    calls = [Call({"noise": step / 1_000}, step=step) for step in range(1_000, 0, -1)]
    assert Stream().log(calls).rows() == [Row(step, {"noise": step / 1_000}) for step in range(1_000, 0, -1)]


def test_coroutines_that_log_in_turn_lose_nothing() -> None:
    """200 coroutines × 20 passes, each at a step of its own: steps interleave, none is logged twice."""
    calls = [
        Call({"loss": float(task), "pass": turn}, step=task * 20 + turn)
        for turn in range(20)
        for task in range(200)
    ]
    rows = Stream().log(calls, flush_every=333).rows()
    assert rows == [Row(call.step, dict(call.values)) for call in calls]


def test_a_row_wider_than_a_batch_stays_one_row() -> None:
    wide = {f"layers/{i}": float(i) for i in range(2 * limits.METRICS_PER_ROW_MAX)}
    further: list[Values] = [{"note": "x"}, {"lr": 0.5}, {"lr": 1.5}]
    rows = Stream().log([Call(values, step=1) for values in (wide, *further)]).rows()
    assert rows == [Row(1, {**wide, "note": "x", "lr": 0.5}), Row(1, {"lr": 1.5})]

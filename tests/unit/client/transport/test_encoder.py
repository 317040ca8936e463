"""Encoding: what comes out, decoded again, is what was logged, in the order of each metric."""

import struct
from array import array

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_client.staging.rows import LoggedRow
from tracker_client.transport.encoder import Encoder
from tracker_client.values.refusals import Refusals
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

NAN = float("nan")


class Wire:
    """Encodes rows and decodes the batches, as a daemon would."""

    def __init__(self):
        self.refusals = Refusals()
        self.encoder = Encoder(self.refusals, lambda: 5)
        self.bodies = []

    def log(self, *rows, automatic=False):
        for number, (step, values) in enumerate(rows):
            self.bodies += self.encoder.add(LoggedRow(step, number, values, automatic))
        return self

    def close(self, **flags):
        self.bodies += self.encoder.close(**flags)
        return self

    @property
    def messages(self):
        return [pb.BatchBody.FromString(body.data) for body in self.bodies]

    def points(self):
        """(name, step, time, value) in the order of the wire."""
        names, points = [], []
        for message in self.messages:
            names.extend(message.names)
            for block in [*message.blocks, *message.texts]:
                values = list(array("d", block.values)) if isinstance(block, pb.Block) else list(block.values)
                steps, times = array("q", block.steps), array("q", block.times)
                for row, (step, time) in enumerate(zip(steps, times, strict=True)):
                    for column, key in enumerate(block.keys):
                        points.append((names[key], step, time, values[row * len(block.keys) + column]))
        return points


def by_metric(points):
    series = {}
    for name, step, time, value in points:
        series.setdefault(name, []).append((step, time, value))
    return series


def logged(rows):
    return by_metric(
        (name, step, number, value) for number, (step, row) in enumerate(rows) for name, value in row.items()
    )


NAMES = st.sampled_from(["a", "b", "c", "d", "e"])
TEXTS = st.sampled_from(["", "a", "é", "\ud800", "\0", "text"])
NUMBERS = st.floats(allow_nan=False) | st.integers(-(2**60), 2**60) | st.booleans()
ROWS = st.lists(st.tuples(st.integers(-5, 5), st.dictionaries(NAMES, NUMBERS | TEXTS)), max_size=60)


@given(ROWS)
def test_every_metric_keeps_its_values_in_the_order_they_were_logged(rows):
    points = Wire().log(*rows).close().points()
    expected = {
        name: [
            (step, time, value if isinstance(value, str) else float(value)) for step, time, value in series
        ]
        for name, series in logged(rows).items()
    }
    assert by_metric(points) == {
        name: [
            (s, t, v.encode("utf-8", "replace").decode() if isinstance(v, str) else v) for s, t, v in series
        ]
        for name, series in expected.items()
    }


def test_disjoint_sets_of_metrics_share_long_blocks():
    rows = [(step, {"a": 1.0, "b": 2.0} if step % 2 else {"c": 3.0}) for step in range(100)]
    _, message = Wire().log(*rows).close().messages
    assert [len(block.keys) for block in message.blocks] == [1, 2]


def test_a_row_that_shares_a_metric_with_a_later_block_does_not_join_an_earlier_one():
    rows = [(0, {"a": 1.0, "b": 1.0}), (0, {"b": 2.0}), (0, {"a": 3.0, "b": 3.0})]
    _, message = Wire().log(*rows).close().messages
    assert len(message.blocks) == 3


def test_automatic_steps_have_blocks_of_their_own():
    wire = Wire().log((0, {"a": 1.0}), automatic=True).log((1, {"a": 1.0})).close()
    assert [block.automatic_steps for block in wire.messages[1].blocks] == [True, False]


def test_values_are_exact_little_endian_float64():
    wire = Wire().log((0, {"a": 0.1, "b": NAN, "c": float("inf"), "d": True, "e": 2**53})).close()
    unpacked = struct.unpack("<5d", wire.messages[1].blocks[0].values)
    assert unpacked[0] == 0.1
    assert unpacked[1] != unpacked[1]
    assert unpacked[2:] == (float("inf"), 1.0, 2.0**53)


def test_a_number_too_large_is_refused_alone():
    wire = Wire().log((0, {"a": 1.0, "b": 2}), (1, {"a": 2.0, "b": 10**400}), (2, {"a": 3.0, "b": 4})).close()
    assert by_metric(wire.points()) == {
        "a": [(0, 0, 1.0), (1, 1, 2.0), (2, 2, 3.0)],
        "b": [(0, 0, 2.0), (2, 2, 4.0)],
    }
    assert wire.refusals.count == 1


@pytest.mark.parametrize(
    "name", ["", 3, None, "x" * (limits.METRIC_NAME_MAX_BYTES + 1), "é" * 300, "\ud800", ("a",)]
)
def test_a_name_that_cannot_be_is_refused_alone_and_warned_about_once(name, caplog):
    wire = Wire().log((0, {name: 1.0, "good": 2.0}), (1, {name: 1.0, "good": 3.0})).close()
    assert [point[0] for point in wire.points()] == ["good", "good"]
    assert wire.refusals.count == 2
    assert len(caplog.records) == 1


def test_a_key_whose_hash_raises_loses_its_row_only():
    class Evil:
        armed = False

        def __hash__(self):
            if Evil.armed:
                raise RuntimeError("no hash")
            return 1

    row = {Evil(): 1.0, "a": 1.0}
    Evil.armed = True
    wire = Wire().log((0, row), (1, {"a": 2.0})).close()
    Evil.armed = False
    assert wire.points() == [("a", 1, 1, 2.0)]
    assert wire.refusals.count == 2


def test_a_step_out_of_range_is_refused():
    wire = Wire().log((2**63, {"a": 1.0}), (-(2**70), {"a": 1.0, "b": 1.0}), (2**62, {"a": 1.0})).close()
    assert [point[1] for point in wire.points()] == [2**62]
    assert wire.refusals.count == 3


def test_messages_stay_within_the_limit_however_wide_and_long():
    rows = [(step, {f"metric/{key}": float(key) for key in range(50)}) for step in range(3_000)]
    rows.append((9_999, {f"wide/{key:0500d}": float(key) for key in range(3_000)}))
    rows.append((10_000, {f"{key}": float(key) for key in range(limits.METRICS_PER_ROW_MAX + 100)}))
    rows.append((10_001, {f"t{key}": "é" * limits.TEXT_VALUE_MAX_CHARACTERS for key in range(100)}))
    rows.append((10_002, {f"t{key}": "\U0001f600" * limits.TEXT_VALUE_MAX_CHARACTERS for key in range(30)}))
    wire = Wire().log(*rows).close()
    assert max(len(body.data) for body in wire.bodies) <= limits.MESSAGE_MAX_BYTES - 64
    assert by_metric(wire.points()) == logged(rows)
    assert sum(body.points for body in wire.bodies) == sum(len(row) for _, row in rows)


def test_the_dictionary_is_bounded_so_that_a_hello_can_carry_it():
    wire = Wire()
    for first in range(0, 8_000, 100):
        wire.log((0, {f"{key:0500d}": 1.0 for key in range(first, first + 100)}))
    names = wire.encoder.dictionary.names
    assert sum(len(name) for name in names) <= limits.HELLO_NAMES_MAX_BYTES
    assert wire.refusals.count == 8_000 - len(names)


def test_only_batches_of_rows_alone_may_be_dropped_and_names_come_before_their_use():
    wire = Wire().log((0, {"a": 1.0})).close().log((1, {"a": 2.0, "b": 1.0})).close()
    assert [body.droppable for body in wire.bodies] == [False, True, False, True]
    assert [list(message.names) for message in wire.messages] == [["a"], [], ["b"], []]


def test_an_announcement_leaves_out_what_a_hello_has_said():
    (announcement, _) = Wire().log((0, {"a": 1.0, "b": 1.0, "c": 1.0})).close().bodies
    for known, expected in [(0, ["a", "b", "c"]), (2, ["c"]), (3, []), (9, [])]:
        assert list(pb.BatchBody.FromString(announcement.data_after(known)).names) == expected


def test_a_hello_takes_nothing_from_other_batches():
    (_, rows) = Wire().log((0, {"a": 1.0})).close().bodies
    assert rows.data_after(9) == rows.data


def test_batches_say_what_was_dropped_and_whether_all_is_sent():
    wire = Wire().log((0, {"a": 1.0})).close(flushed=True)
    assert wire.messages[1].flushed
    assert wire.messages[1].dropped_points == 5
    assert wire.encoder.close(flushed=True) == []
    last = pb.BatchBody.FromString(wire.encoder.finish(-3).data)
    assert (last.finish, last.flushed) == (-3, True)


def test_own_rows_have_blocks_of_their_own_that_say_so():
    wire = Wire()
    for row in (
        LoggedRow(1, 0, {"a": 1.0}, automatic=False),
        LoggedRow(1, 0, {"a": 2.0}, automatic=False, own=True),
        LoggedRow(1, 0, {"b": 3.0}, automatic=False, own=True),
        LoggedRow(2, 0, {"a": 4.0}, automatic=False),
    ):
        wire.bodies += wire.encoder.add(row)
    wire.close()
    blocks = [block for message in wire.messages for block in message.blocks]
    assert [(block.own, list(array("d", block.values))) for block in blocks] == [
        (False, [1.0]), (True, [2.0]), (True, [3.0]), (False, [4.0]),
    ]  # fmt: skip


# ---- row numbers and kinds -----------------------------------------------------------------------


def blocks_of(*rows):
    wire = Wire()
    for number, values in enumerate(rows):
        wire.bodies += wire.encoder.add(LoggedRow(number, 0, values, automatic=False, number=number + 7))
    message = wire.close().messages[-1]
    return [*message.blocks, *message.texts]


def test_every_block_has_the_numbers_of_its_rows():
    blocks = blocks_of({"a": 1.0}, {"a": 2.0, "b": 1.0}, {"b": 3.0, "note": "x"}, {"b": 1.0})
    assert [list(array("q", block.rows)) for block in blocks] == [[7], [8], [9], [10], [9]]


def test_the_parts_of_a_wide_row_have_one_number():
    wire = Wire()
    wide = {f"{i}": 0.5 for i in range(3 * limits.METRICS_PER_ROW_MAX)}
    wire.bodies += wire.encoder.add(LoggedRow(1, 0, wide, automatic=False, number=3))
    blocks = [block for message in wire.close().messages for block in message.blocks]
    assert len(blocks) > 2
    assert {tuple(array("q", block.rows)) for block in blocks} == {(3,)}


@pytest.mark.parametrize(
    ("rows", "kinds"),
    [
        ([{"a": 1.0, "b": 2.0}, {"a": 3.0, "b": 4.0}], b""),
        ([{"a": 1, "b": 2.0}, {"a": 3, "b": 4.0}], b"\1\0"),
        ([{"a": True, "b": 2}], b"\2\1"),
        ([{"a": 1, "b": 2.0}, {"a": 3, "b": 4.0}, {"a": 0.5, "b": False}], b"\1\0\1\0\0\2"),
        ([{"a": 1.0, "b": 2.0}, {"a": 3, "b": 4.0}, {"a": 1.0, "b": 2.0}], b"\0\0\1\0\0\0"),
    ],
)
def test_a_number_has_the_kind_that_it_was_logged_with(rows, kinds):
    (block,) = blocks_of(*rows)
    assert block.kinds == kinds


def test_kinds_that_change_within_a_block_count_towards_the_size_of_a_batch():
    wire = Wire()
    for number in range(4_000):
        values = {f"{i}": number if number % 2 else 0.5 for i in range(64)}
        wire.bodies += wire.encoder.add(LoggedRow(number, 0, values, automatic=False, number=number))
    wire.close()
    sizes = [len(body.data) for body in wire.bodies]
    assert max(sizes) < limits.BATCH_TARGET_BYTES * 1.01
    assert sum(size > limits.BATCH_TARGET_BYTES * 0.9 for size in sizes) > len(sizes) // 2


def test_a_number_that_is_a_subclass_of_a_plain_one_has_the_value_of_its_float():
    class Odd(float):
        pass

    (block,) = blocks_of({"a": Odd(1.5), "b": 2})
    assert (list(array("d", block.values)), block.kinds) == ([1.5, 2.0], b"\0\1")


def test_integers_that_are_rounded_are_warned_about_once_for_each_metric(caplog):
    wide, exact = 2**53 + 1, 2**53 - 1
    wire = Wire()
    for _ in range(2):
        wire.log(*((step, {"wide": -wide, "exact": exact, "float": 1e300}) for step in range(3))).close()
    wire.log((3, {"mixed": 0.5}), (4, {"mixed": wide}), (5, {"mixed": 2**60 + 0.0})).close()
    first, second = (message for message in caplog.messages if "beyond 2^53" in message)
    assert ("'wide'" in first, "'mixed'" in second) == (True, True)
    assert [value for name, *_, value in wire.points() if name == "mixed"] == [0.5, 2.0**53, 2.0**60]

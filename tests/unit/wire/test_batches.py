"""Batches: decoded and checked as a whole, before anything of them is used."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.aggregation.values.batch import DecodedBatch
from tracker_daemon.aggregation.values.item import NO_ROW
from tracker_daemon.errors import MalformedBatch
from tracker_daemon.wire.batches import decode_batch, decode_journalled, encode_batch
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb


def integers(*numbers: int) -> bytes:
    return np.array(numbers, "<i8").tobytes()


def floats(*numbers: float) -> bytes:
    return np.array(numbers, "<f8").tobytes()


def body(**fields: object) -> bytes:
    return pb.BatchBody(**fields).SerializeToString()


def block(**fields: object) -> pb.Block:
    """Two rows of two metrics, but for ``fields``."""
    return pb.Block(
        **{
            "keys": [0, 1],
            "steps": integers(3, 4),
            "times": integers(30, 40),
            "values": floats(1, 2, 3, 4),
            "rows": integers(5, 6),
            **fields,
        }
    )


def text_block(**fields: object) -> pb.TextBlock:
    return pb.TextBlock(
        **{
            "keys": [0],
            "steps": integers(3, 4),
            "times": integers(30, 40),
            "values": ["a", "b"],
            "rows": integers(5, 6),
            **fields,
        }
    )


def test_a_batch_is_decoded_into_rows_texts_and_what_it_says_beside_them() -> None:
    decoded = decode_batch(
        body(
            names=["b"],
            blocks=[block(automatic_steps=True)],
            texts=[text_block(keys=[1, 0], values=["a", "b", "c", "d"])],
            config=['{"x": 1}'],
            dropped_points=7,
            flushed=True,
            finish=0,
        ),
        names_known=1,
    )
    (rows,), (texts,) = decoded.rows, decoded.texts
    assert (rows.keys, rows.steps.tolist(), rows.times_ns.tolist()) == ((0, 1), [3, 4], [30, 40])
    assert rows.values.tolist() == [[1, 2], [3, 4]]
    assert rows.automatic_steps
    assert texts.values == (("a", "b"), ("c", "d"))
    assert (rows.row_numbers.tolist(), texts.row_numbers.tolist()) == ([5, 6], [5, 6])
    assert (decoded.names, decoded.config) == (("b",), ('{"x": 1}',))
    assert (decoded.dropped_points, decoded.flushed, decoded.finish, decoded.points) == (7, True, 0, 8)


def test_an_empty_batch_says_nothing() -> None:
    decoded = decode_batch(b"", 0)
    assert (decoded.rows, decoded.texts, decoded.points, decoded.finish) == ((), (), 0, None)


MALFORMED = {
    "no metric": body(blocks=[block(keys=[], values=b"")]),
    "one metric twice": body(blocks=[block(keys=[1, 1])]),
    "a metric beyond the dictionary": body(blocks=[block(keys=[0, 2])]),
    "no row": body(blocks=[block(steps=b"", times=b"", values=b"", rows=b"")]),
    "too few row numbers": body(blocks=[block(rows=integers(5))]),
    "no row numbers": body(blocks=[block(rows=b"")]),
    "a row number below 0": body(blocks=[block(rows=integers(-1, 0))]),
    "a row number too high": body(blocks=[block(rows=integers(0, limits.ROW_NUMBER_MAX + 1))]),
    "one row twice in a block": body(blocks=[block(rows=integers(5, 5))]),
    "rows of texts that fall": body(texts=[text_block(rows=integers(6, 5))]),
    "texts without row numbers": body(texts=[text_block(rows=b"")]),
    "an item beyond all rows": body(
        items=[pb.Item(kind="table", key="t", document="{}", row=limits.ROW_NUMBER_MAX + 1)]
    ),
    "an unknown kind": body(blocks=[block(kinds=bytes([0, 3]))]),
    "too few kinds": body(blocks=[block(kinds=b"\1\1\1")]),
    "half a step": body(blocks=[block(steps=integers(1) + b"1234", times=integers(1) + b"1234")]),
    "too few times": body(blocks=[block(times=integers(30))]),
    "too few values": body(blocks=[block(values=floats(1, 2, 3))]),
    "too many values": body(blocks=[block(values=floats(1, 2, 3, 4, 5))]),
    "a step too high": body(blocks=[block(steps=integers(3, limits.STEP_MAX + 1))]),
    "a step too low": body(blocks=[block(steps=integers(-limits.STEP_MAX - 1, 3))]),
    "too few texts": body(texts=[text_block(values=["a"])]),
    "a text beyond the dictionary": body(texts=[text_block(keys=[2])]),
    "a text too long": body(texts=[text_block(values=["a", "x" * (limits.TEXT_VALUE_MAX_CHARACTERS + 1)])]),
    "an empty name": body(names=[""]),
    "a name too long": body(names=["é" * (limits.METRIC_NAME_MAX_BYTES // 2 + 1)]),
    "a name twice": body(names=["a", "a"]),
    "configuration that is not JSON": body(config=["{"]),
    "configuration that is no object": body(config=["[1]"]),
    "configuration nested too deeply": body(config=["[" * 150_000]),
    "a number of too many digits": body(config=['{"x": ' + "9" * 10_000 + "}"]),
    "not a message": b"\xff\xff\xff",
    "a truncated message": body(blocks=[block()])[:-3],
    "a name that is not UTF-8": b"\x0a\x02\xff\xfe",
}


@pytest.mark.parametrize("what", MALFORMED)
def test_a_malformed_batch_is_refused_as_a_whole(what: str) -> None:
    with pytest.raises(MalformedBatch):
        decode_batch(MALFORMED[what], names_known=2)


@pytest.mark.parametrize("size", [1, limits.METRIC_NAME_MAX_BYTES])
def test_names_up_to_the_bound_are_taken(size: int) -> None:
    assert decode_batch(body(names=["x" * size]), 0).names == ("x" * size,)


@pytest.mark.parametrize(
    ("kinds", "decoded"),
    [(b"", None), (b"\1\2", [[1, 2], [1, 2]]), (b"\1\2\0\1", [[1, 2], [0, 1]])],
    ids=["floats", "by metric", "by value"],
)
def test_kinds_are_those_of_each_metric_or_of_each_value(kinds: bytes, decoded: object) -> None:
    sent = body(blocks=[block(kinds=kinds)])
    (rows,) = decode_batch(sent, 2).rows
    assert (None if rows.kinds is None else rows.kinds.tolist()) == decoded
    assert encode_batch(decode_batch(sent, 2)) == sent


def test_an_item_before_the_first_row_has_none() -> None:
    sent = body(items=[pb.Item(kind="table", key="t", document="{}")])
    assert decode_batch(sent, 0).items[0].row == NO_ROW
    assert encode_batch(decode_batch(sent, 0)) == sent


def test_values_are_views_on_the_bytes_that_came() -> None:
    values = decode_batch(body(blocks=[block()]), 2).rows[0].values
    assert not values.flags.owndata


def attempt_to_decode(content: bytes) -> DecodedBatch | None:
    try:
        return decode_batch(content, 3)
    except MalformedBatch:
        return None


@given(st.binary(max_size=300))
def test_random_bytes_raise_nothing_but_malformed_batch(content: bytes) -> None:
    decoded = attempt_to_decode(content)
    assert decoded is None or isinstance(decoded, DecodedBatch)


messages = st.builds(
    pb.BatchBody,
    names=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=5), max_size=3),
    blocks=st.lists(
        st.builds(
            pb.Block,
            keys=st.lists(st.integers(0, 2**32 - 1) | st.integers(0, 3), max_size=3),
            steps=st.binary(max_size=24) | st.just(integers(1, 2)),
            times=st.binary(max_size=24) | st.just(integers(1, 2)),
            values=st.binary(max_size=48) | st.just(floats(1, 2)),
            rows=st.binary(max_size=24) | st.just(integers(1, 2)),
        ),
        max_size=2,
    ),
    texts=st.lists(
        st.builds(
            pb.TextBlock,
            keys=st.lists(st.integers(0, 3), max_size=2),
            steps=st.binary(max_size=16) | st.just(integers(1)),
            times=st.binary(max_size=16) | st.just(integers(1)),
            values=st.lists(st.text(st.characters(exclude_categories=["Cs"]), max_size=3), max_size=3),
            rows=st.binary(max_size=16) | st.just(integers(1)),
        ),
        max_size=2,
    ),
    config=st.lists(
        st.text(st.characters(exclude_categories=["Cs"]), max_size=6) | st.just(json.dumps({})), max_size=2
    ),
)


@given(messages, st.data())
def test_damaged_messages_raise_nothing_but_malformed_batch(
    message: pb.BatchBody, data: st.DataObject
) -> None:
    content = bytearray(message.SerializeToString())
    for _ in range(data.draw(st.integers(0, 2))):
        if content:
            content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
    decoded = attempt_to_decode(bytes(content))
    if decoded is not None:
        known = 3 + len(decoded.names)
        assert all(max(rows.keys) < known for rows in (*decoded.rows, *decoded.texts))
        assert all(rows.values.shape == (len(rows.steps), len(rows.keys)) for rows in decoded.rows)
        assert decoded.points == sum(len(r.steps) * len(r.keys) for r in (*decoded.rows, *decoded.texts))


# ---- encoding ------------------------------------------------------------------------------------


def test_a_rank_s_batch_is_encoded_as_it_was_sent() -> None:
    content = pb.Content(sha256=bytes(range(32)), size_bytes=7, path="a/b")
    item = pb.Item(
        kind="table",
        key="t",
        step=-4,
        automatic_step=True,
        time_ns=9,
        document="{}",
        contents=[content],
        row=0,
    )
    sent = body(
        names=["a", "b"],
        blocks=[
            block(automatic_steps=True, kinds=b"\1\0"),
            block(own=True, values=floats(float("nan"), 2, 3, -0.0)),
        ],
        texts=[text_block(keys=[1, 0], values=["é", "b", "", "d"], automatic_steps=True)],
        config=['{"x": 1}', "{}"],
        dropped_points=7,
        flushed=True,
        finish=-9,
        items=[item],
    )
    assert encode_batch(decode_batch(sent, 0)) == sent


def test_a_batch_that_ends_nothing_is_told_apart_from_an_end_with_code_0() -> None:
    for sent in (body(), body(finish=0)):
        assert encode_batch(decode_journalled(sent)) == sent


@given(messages)
def test_whatever_decodes_is_encoded_to_the_same_values(message: pb.BatchBody) -> None:
    decoded = attempt_to_decode(message.SerializeToString())
    if decoded is not None:
        again = pb.BatchBody.FromString(encode_batch(decoded))
        assert again == message

"""The text of metrics.csv."""

import csv
import io
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.csv.format import Header, block_columns, format_block, text_field, widened
from tracker_protocol.kinds import Kind


def written(block, header=None):
    header = header or Header().extended(block_columns(block))
    return header, header.line() + format_block(block, header)


def read(text):
    return list(csv.DictReader(io.StringIO(text.decode(), newline="")))


@given(st.lists(st.floats(), min_size=1, max_size=8))
def test_every_float_reads_back_as_itself(values):
    names = tuple(f"m{i}" for i in range(len(values)))
    zeros = np.zeros(1, np.int64)
    block = RecordBlock(1, 1, names, np.arange(1), zeros, np.array([values]))
    [row] = read(written(block)[1])
    for name, value in zip(names, values, strict=True):
        back = float(row[name])
        assert (math.isnan(back) and math.isnan(value)) or (back, math.copysign(1, back)) == (
            value,
            math.copysign(1, value),
        )


def test_steps_are_integers_up_to_the_largest(make_block):
    _, text = written(make_block(["loss"], [[0.5]], first_step=2**62))
    assert text == b"step,loss\n4611686018427387904,0.5\n"


def test_cells_that_a_record_lacks_are_empty_whether_columns_adjoin_or_not(make_block):
    header = Header(("step", "a", "b", "c", "d"))
    adjoining = make_block(["b", "c"], [[1.0, None], [float("nan"), float("-inf")]])
    scattered = make_block(["d", "a"], [[4.0, 1.0], [None, float("inf")]])
    assert format_block(adjoining, header) == b"0,,1.0,,\n1,,nan,-inf,\n"
    assert format_block(scattered, header) == b"0,1.0,,,4.0\n1,inf,,,\n"


def test_a_record_of_texts_alone_is_a_line(make_block):
    block = make_block([], [[], []], texts=[(1, "note", "x")])
    assert written(block)[1] == b"step,note\n0,\n1,x\n"


@given(st.text(), st.text(min_size=1))
def test_any_text_stays_on_its_line_and_reads_back_but_for_line_breaks(make_block, value, name):
    block = make_block(["loss"], [[1.0]], texts=[(0, name, value)])
    header, text = written(block)
    assert text.count(b"\n") == 2
    assert b"\r" not in text
    [row] = read(text)
    expected = value.replace("\n", "\\n").replace("\r", "\\r").replace("\0", "\\0")
    assert row[header.columns[-1]] == expected


def test_quotes_and_commas_are_quoted_as_rfc_4180_says():
    assert text_field('say "hi", now') == b'"say ""hi"", now"'


@given(st.lists(st.text(max_size=8), max_size=6))
def test_a_header_is_read_from_exactly_its_own_line(names):
    header = Header().extended(name.replace("\n", "\\n").replace("\r", "\\r") for name in names)
    if any("\0" in name for name in names):
        return
    assert Header.parse(header.line()) == header
    assert Header.parse(header.line()[:-1] + b"\r\n") is None


@pytest.mark.parametrize("line", [b"", b"\n", b"epoch,loss\n", b"\xff\xfe\n", b"\xef\xbb\xbfstep,loss\n"])
def test_what_is_no_header_of_ours_is_not_taken_for_one(line):
    assert Header.parse(line) is None


def test_a_metric_called_step_keeps_its_own_column(make_block):
    header, text = written(make_block(["step", "loss"], [[7.0, 0.5]], first_step=100))
    assert header.columns == ("step", "step/local", "loss")
    assert text == b"step,step/local,loss\n100,7.0,0.5\n"


def test_a_metric_called_attempt_leaves_its_name_to_the_run_s_attempts(make_block):
    header, text = written(replace(make_block(["attempt"], [[7.0]]), attempt=3))
    assert header.columns == ("step", "attempt/local", "attempt")
    assert text == b"step,attempt/local,attempt\n0,7.0,3\n"


def test_the_attempt_has_a_column_from_the_second_on(make_block):
    first = make_block(["a", "b"], [[1.0, 2.0]])
    second = replace(make_block(["a", "b"], [[3.0, 4.0]]), attempt=2)
    third = replace(make_block(["b", "c"], [[5.0, 6.0]], texts=[(0, "a", "t")]), attempt=3)
    alone = replace(make_block(["c"], [[7.0]]), attempt=2)
    assert block_columns(first) == ["a", "b"]
    header = Header().extended(name for block in (first, second, third) for name in block_columns(block))
    assert header.columns == ("step", "a", "b", "attempt", "c")
    lines = b"".join(format_block(block, header) for block in (first, second, third, alone))
    assert lines == b"0,1.0,2.0,,\n0,3.0,4.0,2,\n0,t,5.0,3,6.0\n0,,,2,7.0\n"


def test_widening_pads_each_line_wherever_the_chunk_is_cut():
    text = b"1,2\n3,4\n"
    for cut in range(len(text) + 1):
        assert widened(text[:cut], 2) + widened(text[cut:], 2) == b"1,2,,\n3,4,,\n"


def test_a_number_is_written_as_the_kind_that_was_logged(make_block):
    kinds = np.array([[Kind.INT, Kind.BOOL, Kind.FLOAT], [Kind.FLOAT, Kind.FLOAT, Kind.INT]], np.uint8)
    block = replace(make_block(["a", "b", "c"], [[3.0, 1.0, 0.5], [2.0, None, -7.0]]), kinds=kinds)
    assert written(block)[1] == b"step,a,b,c\n0,3,True,0.5\n1,2.0,,-7\n"
    scattered = Header(("step", "c", "x", "b", "a"))
    assert format_block(block, scattered) == b"0,0.5,,True,3\n1,-7,,,2.0\n"


@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=4))
def test_an_integer_reads_back_as_the_nearest_float64_has_it(values):
    names = tuple(f"m{i}" for i in range(len(values)))
    matrix = np.array([values], np.float64)
    kinds = np.full(matrix.shape, Kind.INT, np.uint8)
    zeros = np.zeros(1, np.int64)
    [row] = read(written(RecordBlock(1, 1, names, zeros, zeros, matrix, kinds=kinds))[1])
    assert [int(row[name]) for name in names] == [int(float(value)) for value in values]


def test_an_integer_beyond_64_bits_is_written_as_a_float(make_block):
    block = replace(make_block(["a"], [[1e30]]), kinds=np.array([[Kind.INT]], np.uint8))
    assert written(block)[1] == b"step,a\n0,1e30\n"

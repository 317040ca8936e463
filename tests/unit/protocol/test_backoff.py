"""How long a failing backend, daemon or root is left alone."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_protocol.backoff import Backoff, jittered_s


def test_waits_double_up_to_the_longest():
    backoff = Backoff(min_s=1.0, max_s=10.0)
    assert [backoff.wait_s(n, draw=1.0) for n in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


@given(st.integers(1, 10**9))
def test_a_wait_is_never_nought_and_never_beyond_the_longest(failures):
    backoff = Backoff(min_s=0.5, max_s=60.0)
    assert 0.25 <= backoff.wait_s(failures) <= 60.0


def test_backends_that_failed_together_do_not_return_together():
    backoff = Backoff(min_s=0.5, max_s=60.0)
    assert len({backoff.wait_s(5) for _ in range(100)}) > 90


def test_with_no_certain_share_a_wait_is_drawn_from_nought_to_the_longest():
    backoff = Backoff(min_s=1.0, max_s=10.0, certain_share=0.0)
    assert [backoff.wait_s(3, draw) for draw in (0.0, 0.5, 1.0)] == [0.0, 2.0, 4.0]


def test_many_callers_spread_from_the_first_failure_on_but_never_beyond_the_longest():
    backoff = Backoff(min_s=1.0, max_s=10.0, certain_share=0.0, spread_s=8.0)
    assert [backoff.wait_s(n, draw=1.0) for n in (1, 4, 5)] == [8.0, 8.0, 10.0]
    assert Backoff(min_s=1.0, max_s=10.0, spread_s=60.0).wait_s(1, draw=1.0) == 10.0


@pytest.mark.parametrize(("draw", "wait_s"), [(0.0, 5.0), (1.0, 10.0)])
def test_half_of_a_jittered_wait_is_certain(draw, wait_s):
    assert jittered_s(10.0, draw=draw) == wait_s

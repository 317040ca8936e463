"""How long a failing backend is left alone."""

from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.delivery.retry import Backoff


def test_waits_double_up_to_the_longest():
    backoff = Backoff(min_s=1.0, max_s=10.0)
    assert [backoff.wait_s(n, draw=1.0) for n in range(1, 7)] == [1.0, 2.0, 4.0, 8.0, 10.0, 10.0]


@given(st.integers(1, 10**9))
def test_a_wait_is_never_nought_and_never_beyond_the_longest(failures):
    backoff = Backoff(min_s=0.5, max_s=60.0)
    assert 0.25 <= backoff.wait_s(failures) <= 60.0


def test_backends_that_failed_together_do_not_return_together():
    assert len({Backoff().wait_s(5) for _ in range(100)}) > 90

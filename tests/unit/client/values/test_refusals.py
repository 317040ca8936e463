"""Refusals: every value is counted, and each cause is warned about at most once a minute, with the count."""

import pytest

from tests.support.messages import texts_of
from tracker_client.values.refusals import (
    CAUSES_MAX,
    REPEAT_INTERVAL_MAX_S,
    WARNED_KEYS_MAX,
    WARNING_INTERVAL_S,
    Refusals,
)


class Clock:
    now = 100.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def test_a_cause_is_warned_about_at_once_and_then_at_most_once_a_minute_with_the_count(clock, caplog):
    refusals = Refusals(clock)
    for second in range(150):
        clock.now = 100.0 + second
        refusals.refuse("loss", "None holds no value")
    assert texts_of(caplog.records) == [
        "'loss': None holds no value",
        "'loss': None holds no value (61 values so far)",
    ]
    refusals.report()
    assert texts_of(caplog.records)[2:] == ["'loss': None holds no value (150 values so far)"]
    refusals.report()
    assert len(texts_of(caplog.records)) == 3


def test_a_warning_that_repeats_itself_becomes_rare(clock, caplog):
    refusals = Refusals(clock)
    for minute in range(24 * 60):
        clock.now = minute * 60.0
        refusals.refuse("loss", "no")
    assert len(texts_of(caplog.records)) < 24 + 10
    assert REPEAT_INTERVAL_MAX_S == 3600


def test_keys_that_join_a_cause_are_named_within_a_minute(clock, caplog):
    refusals = Refusals(clock)
    for key in range(10):
        refusals.refuse(f"k{key}", f"an array of {key} values is no scalar")
    assert texts_of(caplog.records) == ["'k0': an array of 0 values is no scalar"]
    clock.now += WARNING_INTERVAL_S
    refusals.refuse("last", "an array of 5 values is no scalar")
    assert texts_of(caplog.records)[1:] == [
        "'k1', 'k2', 'k3', 'k4', 'k5' and 5 more: an array of 5 values is no scalar (11 values so far)"
    ]


def test_other_causes_are_warned_about_at_once(clock, caplog):
    refusals = Refusals(clock)
    refusals.refuse_each([("a", "no"), ("b", "never"), ("c", "no")])
    assert texts_of(caplog.records) == ["'a', 'c': no", "'b': never"]


def test_warnings_of_many_keys_and_causes_have_a_bound(clock, caplog):
    refusals = Refusals(clock)
    for key in range(3 * WARNED_KEYS_MAX):
        refusals.refuse(key, "no")
        refusals.refuse("x", f"it raised {chr(ord('a') + key)}")
    assert refusals.count == 6 * WARNED_KEYS_MAX
    assert len(texts_of(caplog.records)) == CAUSES_MAX + 1
    refusals.report()
    assert len(texts_of(caplog.records)) <= 2 * (CAUSES_MAX + 1)


def test_a_key_whose_text_raises_is_named_by_its_type(caplog):
    class Evil:
        def __repr__(self):
            raise RuntimeError("no")

    Refusals().refuse(Evil(), "no")
    assert texts_of(caplog.records) == ["<Evil>: no"]

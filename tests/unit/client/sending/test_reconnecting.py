"""When the next attempt to connect is due, and what the user is warned about meanwhile."""

import logging

import pytest

from tests.support.messages import texts_of
from tracker_client.sending.reconnecting import Reconnecting
from tracker_protocol import limits


def warnings(caplog):
    return texts_of(caplog.records)


def latest_wait_s(failures, spread_s=0.0):
    """The longest of many waits after so many failures."""
    waits = []
    for _ in range(300):
        reconnecting = Reconnecting(spread_s)
        for _ in range(failures):
            reconnecting.fail("it", 0.0, refused=False)
        waits.append(reconnecting.due_at)
    assert min(waits) >= 0.0
    return max(waits)


@pytest.mark.parametrize(("failures", "longest_s"), [(1, 0.1), (3, 0.4), (7, 6.4), (30, 10.0)])
def test_waits_are_drawn_up_to_a_bound_that_doubles_with_each_failure(failures, longest_s):
    assert longest_s * 0.9 <= latest_wait_s(failures) <= longest_s


def test_the_ranks_of_a_large_job_are_spread_from_the_first_attempt_on():
    begun = [Reconnecting(8.0) for _ in range(300)]
    for reconnecting in begun:
        reconnecting.begin(100.0)
    assert 100.0 <= min(r.due_at for r in begun) < 101.0
    assert 107.0 < max(r.due_at for r in begun) <= 108.0
    assert 7.0 < latest_wait_s(1, spread_s=8.0) <= 8.0


def test_an_acknowledgement_resets_the_delays():
    reconnecting = Reconnecting(0.0)
    for _ in range(10):
        reconnecting.fail("it", 0.0, refused=False)
    reconnecting.acknowledged()
    reconnecting.fail("it", 0.0, refused=False)
    assert reconnecting.due_at <= limits.RECONNECT_BACKOFF_MIN_S


def test_a_refusal_waits_half_of_the_longest_delay_at_least_and_warns_once(caplog):
    reconnecting = Reconnecting(0.0)
    for now in (0.0, 100.0):
        reconnecting.fail("address: refused", now, refused=True)
        assert now + 5.0 <= reconnecting.due_at <= now + 10.0
    assert warnings(caplog) == [
        "the daemon at address: refused (trying again; nothing is recorded meanwhile)"
    ]


def test_the_end_of_a_run_shortens_the_delay_and_never_lengthens_it():
    reconnecting = Reconnecting(0.0)
    reconnecting.fail("it", 0.0, refused=True)
    reconnecting.hasten(1.0)
    assert reconnecting.due_at == 1.0 + limits.RECONNECT_BACKOFF_MIN_S
    reconnecting.hasten(2.0)
    assert reconnecting.due_at == 1.0 + limits.RECONNECT_BACKOFF_MIN_S


def test_an_outage_is_warned_about_once_it_has_lasted_and_again_if_it_returns(caplog):
    reconnecting = Reconnecting(0.0)
    for now in (0.0, limits.CONNECT_TIMEOUT_S - 0.1):
        reconnecting.fail("it", now, refused=False)
    assert warnings(caplog) == []
    for now in (limits.CONNECT_TIMEOUT_S, 50.0):
        reconnecting.fail("it", now, refused=False)
    assert warnings(caplog) == ["no daemon answers (it); values are buffered and sent once one does"]
    reconnecting.welcomed()
    for now in (100.0, 100.0 + limits.CONNECT_TIMEOUT_S):
        reconnecting.fail("it", now, refused=False)
    assert len(warnings(caplog)) == 2


def test_an_endpoint_that_a_starting_daemon_will_write_is_looked_for_soon():
    reconnecting = Reconnecting(0.0)
    for _ in range(20):
        reconnecting.await_endpoint("no file", 0.0)
        assert limits.ENDPOINT_POLL_S / 2 <= reconnecting.due_at <= limits.ENDPOINT_POLL_S


@pytest.mark.parametrize(("missing", "level"), [(True, logging.ERROR), (False, logging.WARNING)])
def test_an_endpoint_that_is_published_nowhere_is_an_error_after_ten_seconds(caplog, missing, level):
    reconnecting = Reconnecting(0.0)
    for now in (0.0, limits.CONNECT_TIMEOUT_S - 0.1):
        reconnecting.await_endpoint("neither here nor there", now, missing=missing)
    assert not caplog.records
    for now in (limits.CONNECT_TIMEOUT_S, 50.0):
        reconnecting.await_endpoint("neither here nor there", now, missing=missing)
    (record,) = caplog.records
    assert record.levelno == level
    assert "neither here nor there" in record.getMessage()

"""The states of a pump: which phase follows which, and what each means to the status."""

from __future__ import annotations

from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.delivery.health import DeliveryState
from tracker_daemon.delivery.states import BEGINS_ATTEMPT, TRANSITIONS, Phase, PumpEvent, PumpState

OVER = {Phase.FINISHED, Phase.STOPPED, Phase.FAILED}


def follow(*events: PumpEvent | tuple[PumpEvent, str], state: PumpState | None = None) -> PumpState:
    state = state or PumpState()
    for event in events:
        state = state.after(*event) if isinstance(event, tuple) else state.after(event)
    return state


HEALTHY = follow(PumpEvent.OPENED, PumpEvent.DELIVERED)
UNAVAILABLE = follow((PumpEvent.UNAVAILABLE, "the disk is full"))
REFUSED = follow((PumpEvent.REFUSED, "no key"))


def test_a_pump_opens_delivers_and_idles_until_it_is_notified() -> None:
    state = PumpState()
    phases = [state.phase]
    for event in (
        PumpEvent.OPENED,
        PumpEvent.DELIVERED,
        PumpEvent.CAUGHT_UP,
        PumpEvent.NOTIFIED,
        PumpEvent.GATHERED,
        PumpEvent.CAUGHT_UP,
        PumpEvent.LOOK_DUE,
    ):
        state = state.after(event)
        phases.append(state.phase)
    assert phases == [
        Phase.OPENING,
        Phase.DELIVERING,
        Phase.DELIVERING,
        Phase.IDLE,
        Phase.GATHERING,
        Phase.DELIVERING,
        Phase.IDLE,
        Phase.DELIVERING,
    ]


def test_each_phase_has_its_transitions_and_each_event_a_place() -> None:
    assert set(TRANSITIONS) == set(Phase)
    assert {event for events in TRANSITIONS.values() for event in events} == set(PumpEvent)


@pytest.mark.parametrize("phase", sorted(set(Phase) - OVER, key=lambda phase: phase.value))
def test_a_pump_can_end_in_any_phase_and_then_stays_so(phase: Phase) -> None:
    state = PumpState(phase)
    assert not state.is_over
    ends = {
        PumpEvent.END_DELIVERED: Phase.FINISHED,
        PumpEvent.STOP_REQUESTED: Phase.STOPPED,
        PumpEvent.JOURNAL_FAILED: Phase.FAILED,
    }
    for event, end in ends.items():
        ended = state.after(event)
        assert (ended.phase, ended.is_over) == (end, True)
        for further in PumpEvent:
            with pytest.raises(ValueError, match=f"cannot be {further.name} while it is {end.name}"):
                ended.after(further)


def test_an_event_that_cannot_happen_is_an_error_and_changes_nothing() -> None:
    for phase, event in product(Phase, PumpEvent):
        state = PumpState(phase)
        if event in TRANSITIONS[phase]:
            assert state.after(event).phase is TRANSITIONS[phase][event]
        else:
            with pytest.raises(ValueError, match=event.name):
                state.after(event)


@pytest.mark.parametrize("phase", [Phase.OPENING, Phase.DELIVERING, Phase.PAUSED])
@pytest.mark.parametrize(
    ("event", "follows", "shown"),
    [
        (PumpEvent.UNAVAILABLE, Phase.RETRYING, DeliveryState.RETRYING),
        (PumpEvent.REFUSED, Phase.PAUSED, DeliveryState.PAUSED),
    ],
)
def test_an_error_of_the_backend_is_shown_with_its_reason_and_waited_for(
    phase: Phase, event: PumpEvent, follows: Phase, shown: DeliveryState
) -> None:
    state = PumpState(phase).after(event, "why")
    assert (state.phase, state.shown, state.reason) == (follows, shown, "why")


@pytest.mark.parametrize("failed", [UNAVAILABLE, REFUSED])
@pytest.mark.parametrize("wait_ended", [PumpEvent.WAITED, PumpEvent.WOKEN])
def test_what_is_shown_stays_while_the_pump_tries_again_until_it_succeeds(
    failed: PumpState, wait_ended: PumpEvent
) -> None:
    again = follow(wait_ended, PumpEvent.OPENED, state=failed)
    assert again.phase is Phase.DELIVERING
    assert (again.shown, again.reason) == (failed.shown, failed.reason)
    for success in (PumpEvent.DELIVERED, PumpEvent.CAUGHT_UP):
        succeeded = again.after(success)
        assert (succeeded.shown, succeeded.reason, succeeded.failures) == (DeliveryState.HEALTHY, "", 0)


def test_failures_in_a_row_are_counted_until_a_success_or_a_wake_up() -> None:
    twice = follow(PumpEvent.WAITED, (PumpEvent.UNAVAILABLE, "still full"), state=UNAVAILABLE)
    assert twice.failures == 2
    assert follow(PumpEvent.WAITED, state=twice).failures == 2
    assert follow(PumpEvent.WOKEN, state=twice).failures == 0
    assert follow(PumpEvent.WAITED, PumpEvent.OPENED, PumpEvent.DELIVERED, state=twice).failures == 0
    assert follow(PumpEvent.WAITED, PumpEvent.OPENED, PumpEvent.SET_ASIDE, state=twice).failures == 0


def test_refusals_are_counted_for_ever() -> None:
    again = follow(PumpEvent.WAITED, (PumpEvent.REFUSED, "no key"), state=REFUSED)
    mended = follow(PumpEvent.WOKEN, PumpEvent.OPENED, PumpEvent.DELIVERED, state=again)
    assert (REFUSED.refusals, again.refusals, mended.refusals) == (1, 2, 2)


def test_an_idle_backend_with_trouble_of_its_own_is_shown_as_retrying_until_that_is_gone() -> None:
    state = HEALTHY.after(PumpEvent.CAUGHT_UP, "the server answers 503")
    assert (state.phase, state.shown, state.reason) == (
        Phase.IDLE,
        DeliveryState.RETRYING,
        "the server answers 503",
    )
    state = follow(PumpEvent.LOOK_DUE, PumpEvent.CAUGHT_UP, state=state)
    assert (state.phase, state.shown, state.reason) == (Phase.IDLE, DeliveryState.HEALTHY, "")


def test_after_a_poison_entry_the_backend_is_opened_again_and_the_rest_follows() -> None:
    state = HEALTHY.after(PumpEvent.SET_ASIDE)
    assert (state.phase, state.shown) == (Phase.OPENING, DeliveryState.HEALTHY)


def test_a_failed_journal_is_shown_for_good() -> None:
    state = HEALTHY.after(PumpEvent.JOURNAL_FAILED, "restart the daemon")
    assert (state.shown, state.reason) == (DeliveryState.RETRYING, "restart the daemon")


@given(st.lists(st.sampled_from(PumpEvent), max_size=60))
def test_whatever_happens_what_is_shown_has_a_reason_exactly_if_it_is_not_healthy(
    events: list[PumpEvent],
) -> None:
    explained = {PumpEvent.UNAVAILABLE, PumpEvent.REFUSED, PumpEvent.JOURNAL_FAILED}
    state = PumpState()
    for event in events:
        if event in TRANSITIONS[state.phase]:
            state = state.after(event, "why" if event in explained else "")
        assert (state.reason == "") is (state.shown is DeliveryState.HEALTHY)
        assert state.shown is not DeliveryState.BEHIND


def test_an_attempt_begins_wherever_the_pump_begins_to_open_or_deliver_but_for_what_continues_one() -> None:
    begins = {
        event
        for events in TRANSITIONS.values()
        for event, phase in events.items()
        if phase in {Phase.OPENING, Phase.DELIVERING}
    }
    assert begins - {PumpEvent.OPENED} == BEGINS_ATTEMPT

"""The pump: what it does with a backend that takes, fails, refuses or chokes."""

import threading
import time
import uuid
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import structlog

from tests.support.waiting import wait_until
from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import RunDescription, SetAside
from tracker_daemon.backends.memory import MemoryBackend
from tracker_daemon.delivery.cursor import Cursor
from tracker_daemon.delivery.health import DeliveryState
from tracker_daemon.delivery.pump import Pump, PumpTiming
from tracker_daemon.errors import BackendRefused, BackendUnavailable, JournalError, PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol.backoff import Backoff

WITHIN_S = 20.0
FAR_S = 3600.0


def records(step, count=1):
    steps = np.arange(step, step + count, dtype=np.int64)
    zeros = np.zeros(count, np.int64)
    return RecordBlock(step, 1, ("loss",), steps, zeros, steps[:, None] / 2).to_bytes()


@dataclass
class Outbox:
    """Plays the journal for one run: entries, and the cursors committed."""

    entries: list = field(default_factory=list)
    cursors: list = field(default_factory=list)
    slice_entries: int = 100

    def add(self, kind, payload):
        self.entries.append(OutboxEntry(len(self.entries) + 1, kind, payload))

    def read(self, after):
        return self.entries[after : after + self.slice_entries]

    def commit(self, position, state, delivered, set_aside):
        self.cursors.append(Cursor(position, state, delivered, set_aside))


class Faulty(MemoryBackend):
    """Raises what the test says, for as long as it says."""

    def __init__(self):
        super().__init__()
        self.failure = None
        self.poison = set()
        self.attempts = 0
        self.tried = threading.Semaphore(0)
        self.slices = []

    def deliver(self, entries, commit):
        self.attempts += 1
        self.tried.release()
        self.slices.append([entry.number for entry in entries])
        if self.failure is not None:
            super().deliver(entries[:1], commit)  # It breaks half-way.
            raise self.failure
        for entry in entries:
            if entry.number in self.poison:
                raise PoisonEntry(f"entry {entry.number} is too odd")
            super().deliver([entry], commit)
        return super().deliver([], commit)


@pytest.fixture
def outbox():
    return Outbox()


@pytest.fixture
def pump_of(outbox):
    """Starts pumps and stops them at the test's end."""
    started = []

    def start(backend, cursor=None, commit=outbox.commit, backoff=None, clock=time.monotonic, **waits):
        run = RunDescription(uuid.uuid4().hex, "project", "name", Path("/nowhere"))
        pump = Pump(
            backend,
            run,
            cursor,
            read=outbox.read,
            commit=commit,
            backoff=backoff or Backoff(0.001, 0.002),
            timing=PumpTiming(**{"linger_s": 0.0, "paused_retry_s": FAR_S} | waits),
            clock=clock,
        )
        pump.start()
        started.append(pump)
        return pump

    yield start
    for pump in started:
        assert pump.stop(WITHIN_S)


@pytest.fixture
def call_at_log_events():
    """Has loggers that are made later call a function with each event, on the thread that logs."""
    before = structlog.get_config()

    def install(function):
        def process(logger, method, event):
            function(event["event"])
            raise structlog.DropEvent

        structlog.configure(processors=[process])

    yield install
    structlog.configure(**before)


def drained(pump):
    return pump.drain(time.monotonic() + WITHIN_S)


def steps_of(pump):
    return [row["step"] for row in MemoryBackend.runs[pump.run.run_id].rows()]


def wait_for_state(pump, state):
    wait_until(lambda: pump.health().state is state, f"the backend to be {state.value}", WITHIN_S)


def wait_for_end(pump):
    wait_until(lambda: pump.finished, "the pump to end", WITHIN_S)


def test_all_is_delivered_in_order_and_counted(outbox, pump_of):
    for step in range(0, 30, 3):
        outbox.add(EntryKind.RECORDS, records(step, 3))
    outbox.slice_entries = 4
    pump = pump_of(MemoryBackend())
    assert drained(pump)
    assert steps_of(pump) == list(range(30))
    health = pump.health()
    assert (health.state, health.delivered_entry, health.delivered_records) == ("healthy", 10, 30)
    assert health.location == f"memory:{pump.run.run_id}"
    assert [cursor.position for cursor in outbox.cursors] == [4, 8, 10]


def test_a_notification_brings_what_was_added(outbox, pump_of):
    pump = pump_of(MemoryBackend())
    assert drained(pump)
    outbox.add(EntryKind.RECORDS, records(0))
    assert pump.notify()
    assert drained(pump)
    assert steps_of(pump) == [0]


def test_records_gather_unless_somebody_waits_for_them(outbox, pump_of):
    pump = pump_of(MemoryBackend(), linger_s=FAR_S)
    assert drained(pump)
    outbox.add(EntryKind.RECORDS, records(0))
    pump.notify()
    assert drained(pump)
    assert steps_of(pump) == [0]


def test_a_pump_ends_after_the_end_entry_and_says_so(outbox, pump_of):
    outbox.add(EntryKind.RECORDS, records(0))
    outbox.add(EntryKind.END, b'{"status": "FINISHED"}')
    outbox.add(EntryKind.RECORDS, records(1))
    outbox.slice_entries = 2
    pump = pump_of(MemoryBackend())
    wait_for_end(pump)
    assert steps_of(pump) == [0, 1]
    assert pump.notify() is False
    assert pump.finished
    assert pump.drain(time.monotonic())


def test_a_pump_goes_on_from_its_cursor(outbox, pump_of):
    for step in range(4):
        outbox.add(EntryKind.RECORDS, records(step))
    outbox.slice_entries = 2
    first = pump_of(MemoryBackend())
    assert drained(first)
    first.stop()
    second = pump_of(MemoryBackend(), outbox.cursors[0])
    assert drained(second)
    assert steps_of(second) == [2, 3]
    assert second.health().delivered_records == 4


def test_an_unavailable_backend_is_tried_until_it_takes_everything_once(outbox, pump_of):
    for step in range(5):
        outbox.add(EntryKind.RECORDS, records(step))
    backend = Faulty()
    backend.failure = BackendUnavailable("the disk is full")
    pump = pump_of(backend)
    for _ in range(5):
        assert backend.tried.acquire(timeout=WITHIN_S)
    wait_for_state(pump, DeliveryState.RETRYING)
    assert pump.health().reason == "the disk is full"
    assert not outbox.cursors
    backend.failure = None
    assert drained(pump)
    assert steps_of(pump) == [0, 1, 2, 3, 4]
    assert (pump.health().state, pump.health().reason) == ("healthy", "")


def test_a_bug_in_a_backend_is_retried_under_its_type_s_name(outbox, pump_of):
    outbox.add(EntryKind.RECORDS, records(0))
    backend = Faulty()
    backend.failure = KeyError("oops")
    pump = pump_of(backend)
    wait_for_state(pump, DeliveryState.RETRYING)
    assert pump.health().reason == "KeyError: 'oops'"
    backend.failure = None
    assert drained(pump)
    assert steps_of(pump) == [0]


def test_a_refusing_backend_is_paused_until_resumed(outbox, pump_of):
    outbox.add(EntryKind.RECORDS, records(0))
    backend = Faulty()
    backend.failure = BackendRefused("no key")
    pump = pump_of(backend)
    wait_for_state(pump, DeliveryState.PAUSED)
    assert pump.health().reason == "no key"
    assert backend.attempts == 1
    backend.failure = None
    pump.resume()
    wait_for_state(pump, DeliveryState.HEALTHY)
    assert drained(pump)
    assert steps_of(pump) == [0]


def test_a_paused_backend_is_tried_again_by_itself(outbox, pump_of):
    outbox.add(EntryKind.RECORDS, records(0))
    backend = Faulty()
    backend.failure = BackendRefused("no key")
    pump_of(backend, paused_retry_s=0.001)
    for _ in range(3):
        assert backend.tried.acquire(timeout=WITHIN_S)


def test_a_paused_backend_is_tried_again_once_something_may_have_changed(outbox, pump_of):
    class Locked(Faulty):
        unlocked = False

        def may_be_resumed(self):
            return self.unlocked

    outbox.add(EntryKind.RECORDS, records(0))
    backend = Locked()
    backend.failure = BackendRefused("no key")
    pump = pump_of(backend, look_s=0.01)
    pump.notify()
    wait_for_state(pump, DeliveryState.PAUSED)
    tried = backend.attempts
    backend.failure = None
    backend.unlocked = True
    wait_for_state(pump, DeliveryState.HEALTHY)
    assert backend.attempts == tried + 1


def test_trouble_with_what_was_delivered_shows_while_it_lasts_with_or_without_anything_to_deliver(
    outbox, pump_of
):
    class Uploading(MemoryBackend):
        upload = "the server answers 503"

        def trouble(self):
            return self.upload

    backend = Uploading()
    outbox.add(EntryKind.RECORDS, records(0))
    pump = pump_of(backend, look_s=0.01)
    pump.notify()
    wait_for_state(pump, DeliveryState.RETRYING)
    assert pump.health().reason == "the server answers 503"
    assert drained(pump)
    assert pump.health().delivered_records == 1
    backend.upload = ""
    wait_for_state(pump, DeliveryState.HEALTHY)
    assert pump.health().reason == ""
    backend.upload = "the server is gone"
    wait_for_state(pump, DeliveryState.RETRYING)


def test_a_backend_that_is_watched_closely_is_mended_before_there_is_more_to_deliver(outbox, pump_of):
    class Broken(MemoryBackend):
        openings = 0

        def open(self, run, state):
            self.openings += 1
            super().open(run, state)

        def trouble(self):
            if self.openings == 1:
                raise BackendUnavailable("its process has ended")
            return ""

    backend = Broken()
    healthy = backend.trouble
    backend.trouble = lambda: ""
    outbox.add(EntryKind.RECORDS, records(0))
    pump = pump_of(backend, look_s=FAR_S)
    pump.notify()
    assert drained(pump)
    backend.trouble = healthy
    pump.watch_closely()
    wait_until(lambda: backend.openings == 2, "the backend to be opened again")
    wait_for_state(pump, DeliveryState.HEALTHY)


def test_a_drain_does_not_wait_for_a_backend_that_refuses_again(outbox, pump_of):
    outbox.add(EntryKind.RECORDS, records(0))
    backend = Faulty()
    backend.failure = BackendRefused("no key")
    pump = pump_of(backend)
    assert pump.drain(time.monotonic() + FAR_S) is False


def test_a_drain_that_begins_once_paused_shows_is_not_ended_by_the_refusal_before_it(
    outbox, pump_of, call_at_log_events
):
    backend = Faulty()
    backend.failure = BackendRefused("no key")
    results, refusals, begun = [], [], threading.Event()
    drain = threading.Thread(target=lambda: results.append(drained(pump)))

    def clock():
        """A drain asks for the time once it has noted the refusals before it."""
        if threading.current_thread() is drain:
            begun.set()
        return time.monotonic()

    def mend_and_drain(event):
        """Somebody sees "paused", mends the cause and drains, before the pump does anything more."""
        if event == "delivery waits":
            refusals.append(pump.refusals)
            backend.failure = None
            drain.start()
            begun.wait(WITHIN_S)

    call_at_log_events(mend_and_drain)
    pump = pump_of(backend, clock=clock)
    outbox.add(EntryKind.RECORDS, records(0))
    pump.notify()
    assert begun.wait(WITHIN_S)
    drain.join(WITHIN_S)
    assert results == [True]
    assert refusals == [1]  # the drain counts the refusal that was shown as one before it


def test_a_drain_cuts_a_long_back_off_short(outbox, pump_of):
    outbox.add(EntryKind.RECORDS, records(0))
    backend = Faulty()
    backend.failure = BackendUnavailable("down")
    pump = pump_of(backend, backoff=Backoff(FAR_S, FAR_S))
    wait_for_state(pump, DeliveryState.RETRYING)
    backend.failure = None
    assert drained(pump)


def test_a_drain_gives_up_at_its_deadline(outbox, pump_of):
    outbox.add(EntryKind.RECORDS, records(0))
    backend = Faulty()
    backend.failure = BackendUnavailable("down")
    assert pump_of(backend).drain(time.monotonic() + 0.01) is False


@pytest.mark.parametrize("poison", [{1}, {7}, {10}, {3, 4}, set(range(1, 11))])
def test_poison_alone_is_set_aside_and_counted(outbox, pump_of, poison):
    for step in range(10):
        outbox.add(EntryKind.RECORDS, records(10 * step, 2))
    outbox.add(EntryKind.END, b'{"status": "FINISHED"}')
    backend = Faulty()
    backend.poison = poison
    pump = pump_of(backend)
    wait_for_end(pump)
    good = [n for n in range(10) if n + 1 not in poison]
    assert steps_of(pump) == [step for n in good for step in (10 * n, 10 * n + 1)]
    health = pump.health()
    assert (health.delivered_records, health.set_aside_records) == (2 * len(good), 2 * len(poison))
    assert health.delivered_entry == 11


def test_what_a_backend_sets_aside_of_an_entry_is_counted_and_its_reason_shown(outbox, pump_of):
    class Choosy(MemoryBackend):
        def set_aside(self):
            return (SetAside(1, 2, "two were not to its liking"), SetAside(2, 0, "a param was not"))

    outbox.add(EntryKind.RECORDS, records(0, 5))
    pump = pump_of(Choosy())
    assert drained(pump)
    health = pump.health()
    assert (health.delivered_records, health.set_aside_records) == (3, 2)
    assert (outbox.cursors[-1].delivered_records, outbox.cursors[-1].set_aside_records) == (3, 2)
    assert (health.state, health.set_aside_reason) == (DeliveryState.HEALTHY, "a param was not")


def test_poison_in_a_long_slice_is_found_in_few_deliveries(outbox, pump_of):
    for step in range(1024):
        outbox.add(EntryKind.RECORDS, records(step))
    outbox.slice_entries = 1024
    backend = Faulty()
    backend.poison = {777}
    pump = pump_of(backend)
    assert drained(pump)
    assert len(backend.slices) < 30


def test_a_poisonous_end_still_ends_the_pump(outbox, pump_of):
    outbox.add(EntryKind.END, b"{}")
    backend = Faulty()
    backend.poison = {1}
    pump = pump_of(backend)
    wait_for_end(pump)
    assert outbox.cursors[-1] == Cursor(1, b"", 0, 0)


def test_a_state_committed_on_the_way_stands_at_the_position_before_the_slice(outbox, pump_of):
    class Midway(MemoryBackend):
        def deliver(self, entries, commit):
            commit(b"midway")
            return b"after"

    outbox.add(EntryKind.RECORDS, records(0))
    pump = pump_of(Midway())
    assert drained(pump)
    assert outbox.cursors == [Cursor(0, b"midway", 0, 0), Cursor(1, b"after", 1, 0)]


def test_after_an_error_the_backend_is_opened_with_the_state_committed_on_the_way(outbox, pump_of):
    opened = []

    class Midway(MemoryBackend):
        def open(self, run, state):
            opened.append(state)

        def deliver(self, entries, commit):
            if len(opened) == 1:
                commit(b"midway")
                raise BackendUnavailable("down")
            return b"after"

    outbox.add(EntryKind.RECORDS, records(0))
    assert drained(pump_of(Midway()))
    assert opened == [None, b"midway"]


def test_a_backend_that_hangs_or_fails_delays_no_other(outbox, pump_of):
    release = threading.Event()

    class Hanging(MemoryBackend):
        def deliver(self, entries, commit):
            release.wait(WITHIN_S)
            return super().deliver(entries, commit)

    for step in range(5):
        outbox.add(EntryKind.RECORDS, records(step))
    hanging = pump_of(Hanging())
    down = Faulty()
    down.failure = BackendUnavailable("down")
    failing = pump_of(down)
    healthy = pump_of(MemoryBackend())
    assert drained(healthy)
    assert steps_of(healthy) == [0, 1, 2, 3, 4]
    assert hanging.health().delivered_entry == failing.health().delivered_entry == 0
    release.set()


def test_a_backend_that_does_not_catch_up_is_shown_as_behind(outbox, pump_of):
    now = [0.0]
    inside, release = threading.Event(), threading.Event()

    class Slow(MemoryBackend):
        def deliver(self, entries, commit):
            inside.set()
            release.wait(WITHIN_S)
            return super().deliver(entries, commit)

    outbox.add(EntryKind.RECORDS, records(0))
    pump = pump_of(Slow(), behind_after_s=10.0, clock=lambda: now[0])
    assert inside.wait(WITHIN_S)
    assert pump.health().state is DeliveryState.HEALTHY
    now[0] = 11.0
    assert pump.health().state is DeliveryState.BEHIND
    release.set()
    assert pump.drain(now[0] + WITHIN_S)
    assert pump.health().state is DeliveryState.HEALTHY


def test_a_journal_that_fails_ends_the_pump_and_nothing_is_tried_on(outbox, pump_of):
    def refuse(*_):
        raise JournalError("commit failed")

    outbox.add(EntryKind.RECORDS, records(0))
    backend = Faulty()
    pump = pump_of(backend, commit=refuse)
    wait_until(lambda: "commit failed" in pump.health().reason, "the pump to fail", WITHIN_S)
    assert pump.notify() is False
    assert not pump.finished
    assert pump.stop(WITHIN_S)
    assert backend.attempts == 1


def test_stop_wakes_a_pump_from_any_wait(outbox, pump_of):
    outbox.add(EntryKind.RECORDS, records(0))
    refusing, down = Faulty(), Faulty()
    refusing.failure, down.failure = BackendRefused("no key"), BackendUnavailable("down")
    paused = pump_of(refusing)
    retrying = pump_of(down, backoff=Backoff(FAR_S, FAR_S))
    lingering = pump_of(MemoryBackend(), linger_s=FAR_S)
    wait_for_state(paused, DeliveryState.PAUSED)
    wait_for_state(retrying, DeliveryState.RETRYING)
    assert drained(lingering)
    lingering.notify()
    for pump in (paused, retrying, lingering):
        assert pump.stop(WITHIN_S)


def test_a_pump_that_was_never_started_stops(outbox):
    run = RunDescription("never", "project", "name", Path("/nowhere"))
    assert Pump(MemoryBackend(), run, read=outbox.read, commit=outbox.commit).stop()

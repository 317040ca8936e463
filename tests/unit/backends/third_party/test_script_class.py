"""A class of the script as a backend: its link is attached to a process, answers, and may be closed."""

from __future__ import annotations

import threading
from pathlib import Path

import numpy as np
import pytest

from tracker_daemon.aggregation.values.record import RecordBlock
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.third_party.script_class import SCRIPT_STATE, ScriptBackend
from tracker_daemon.backends.third_party.script_link import ScriptAnswer, ScriptLink
from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol import limits

RUN = RunDescription("r", "p", "n", Path("/out"), epoch=3)
PATIENCE_S = 20.0


def records(number, n=2):
    steps = np.arange(n, dtype=np.int64)
    block = RecordBlock(1, 1, ("loss",), steps, steps, np.ones((n, 1)))
    return OutboxEntry(number, EntryKind.RECORDS, block.to_bytes())


class Process:
    """Plays the script's process: notes what it is sent, and takes it at once if it is to."""

    def __init__(self, link, *, takes=True):
        self.link, self.takes, self.sent = link, takes, []
        self.some = threading.Event()

    def __call__(self, epoch, entry):
        self.sent.append(entry.number)
        self.some.set()
        if self.takes:
            self.link.answer(ScriptAnswer(epoch, entry.number))


@pytest.fixture
def link(monkeypatch):
    monkeypatch.setattr(limits, "SCRIPT_CONNECT_PATIENCE_S", 0.05)
    monkeypatch.setattr(limits, "SCRIPT_ANSWER_PATIENCE_S", 0.05)
    return ScriptLink("mine")


@pytest.fixture
def backend(link):
    backend = ScriptBackend(link)
    backend.open(RUN, None)
    return backend


def deliver(backend, *entries):
    return backend.deliver(entries, lambda _: None)


def in_a_thread(call):
    outcome = []

    def work():
        try:
            outcome.append(call())
        except BackendUnavailable as error:
            outcome.append(error)

    thread = threading.Thread(target=work)
    thread.start()
    return thread, outcome


def test_entries_are_delivered_once_the_process_has_taken_them(backend, link):
    process = Process(link)
    link.attach("rank 0, process 9 on node", process)
    assert deliver(backend, records(1), records(2)) == SCRIPT_STATE
    assert process.sent == [1, 2]
    assert backend.set_aside() == []
    assert backend.location() == "rank 0, process 9 on node"


def test_without_a_process_delivery_waits_and_names_the_missing_process(backend, link):
    assert not backend.reachable
    with pytest.raises(BackendUnavailable, match=r"primary rank.*'mine'.*not connected"):
        deliver(backend, records(1))


def end(number):
    return OutboxEntry(number, EntryKind.END, b'{"status": "FAILED"}')


def test_an_end_that_came_before_the_process_s_own_logging_does_not_end_its_class(backend, link):
    process = Process(link)
    link.attach("rank 0", process, live_after=2)
    deliver(backend, end(2))
    deliver(backend, records(3))
    link.attach("rank 0, reconnected after finish", process)
    deliver(backend, end(2), end(4))
    assert process.sent == [3, 4]


def test_a_process_that_takes_nothing_is_shown_and_gets_nothing_twice_that_it_took(backend, link):
    process = Process(link, takes=False)
    link.attach("rank 0", process)
    with pytest.raises(BackendUnavailable, match="has processed nothing"):
        deliver(backend, records(1), records(2))
    link.answer(ScriptAnswer(3, 1))
    process.takes = True
    deliver(backend, records(1), records(2))
    assert process.sent == [1, 2, 2]


def test_a_connection_that_breaks_ends_the_wait_at_once(backend, link, monkeypatch):
    monkeypatch.setattr(limits, "SCRIPT_ANSWER_PATIENCE_S", 3600)
    process = Process(link, takes=False)
    link.attach("rank 0", process)
    thread, outcome = in_a_thread(lambda: deliver(backend, records(1)))
    assert process.some.wait(PATIENCE_S)
    link.detach(process)
    thread.join(PATIENCE_S)
    assert "not connected" in str(outcome[0])


def test_what_the_class_raised_for_is_set_aside_with_its_reason(backend, link):
    link.attach(
        "rank 0", lambda epoch, entry: link.answer(ScriptAnswer(epoch, entry.number, 1, "log() raised"))
    )
    deliver(backend, records(1))
    (aside,) = backend.set_aside()
    assert (aside.entry, aside.records, aside.reason) == (1, 1, "log() raised")


def test_what_nobody_is_left_to_take_is_set_aside_and_nothing_waits(backend, link):
    link.attach("rank 0", Process(link, takes=False))
    link.answer(ScriptAnswer(3, 1))
    link.close("it has finished")
    assert backend.reachable
    deliver(backend, records(1), records(2, n=3), OutboxEntry(3, EntryKind.END, b"{}"))
    (aside,) = backend.set_aside()
    assert (aside.entry, aside.records) == (2, 3)
    assert "it has finished" in aside.reason


def test_a_successor_receives_the_entries_after_its_predecessor_was_closed(backend, link):
    link.close("it has finished")
    process = Process(link)
    link.attach("rank 0, another process", process)
    deliver(backend, records(1))
    assert process.sent == [1]
    assert backend.set_aside() == []

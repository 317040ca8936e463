"""All pumps together: what a daemon that ends waits for."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.third_party.script_class import SCRIPT_STATE
from tracker_daemon.backends.third_party.script_link import ScriptAnswer, ScriptLinks
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.journal.rows import CursorRow
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

RUN = RunDescription("r", "p", "n", Path("/out"))
PATIENCE_S = 20.0


class Journal:
    """Plays the journal of one run, with its end in the outbox."""

    def __init__(self):
        self.position = 0

    def __call__(self, work):
        return work(self)

    def outbox_after(self, run, number, **_):
        return [OutboxEntry(1, EntryKind.END, b'{"status": "FINISHED"}')][number:]

    def put_cursor(self, run, backend, position, *_):
        self.position = position


@pytest.fixture
def links():
    return ScriptLinks()


@pytest.fixture
def pumps(links):
    pumps = PumpSet(Journal(), links)
    pumps.open(1, RUN, CursorRow(1, "mine", 0, SCRIPT_STATE, 0, 0))
    yield pumps
    pumps.stop(PATIENCE_S)


def test_a_daemon_that_ends_does_not_wait_for_a_class_whose_process_is_gone(pumps):
    assert pumps.drain(0.0)
    assert not pumps.is_finished(1)


def test_it_waits_for_a_class_whose_process_is_there(pumps, links):
    link = links.of("r", "mine")
    link.attach("rank 0", lambda epoch, entry: link.answer(ScriptAnswer(epoch, entry.number)))
    pumps.resume(1, "mine")
    assert pumps.drain(PATIENCE_S)
    wait_until(lambda: pumps.is_finished(1), "the pump to end")

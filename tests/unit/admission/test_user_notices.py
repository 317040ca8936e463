"""Warnings of a run reach its user: through the primary rank, by ``run``, or once that rank is there."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from tests.support.ingest.clients import Door
from tests.support.ingest.rig import DEFAULTS, RULES
from tracker_daemon.admission.user_notices import UserNotices
from tracker_daemon.ingest.session import Session
from tracker_daemon.runs.registry import Registry


class Shown(Session):
    """A rank's connection that keeps the sentences for its user."""

    def __init__(self, stream):
        self.stream = stream
        self.shown = []

    def send_notice(self, text):
        self.shown.append(text)


class Desk:
    """A run with ranks 0 and 1, as a daemon with a terminal or without one has it."""

    def __init__(self, *, terminal):
        self.registry = Registry(DEFAULTS, RULES)
        self.door = Door(self.registry)
        self.printed = []
        self.notices = UserNotices(self.registry, self.printed.append if terminal else None)
        self.other = self.door.come(2, 1, run_id="r")
        self.run = self.other.stream.run

    def come(self):
        """The primary rank connects."""
        admission = self.door.come(1, 0, run_id="r")
        self.stream = admission.stream
        self.stream.connection = Shown(admission.stream)
        self.notices.send_kept(self.stream.connection)
        return self.stream.connection

    def warn(self, text):
        self.run.live.warnings.append(text)
        self.notices.show_new(self.run.live)


@pytest.mark.parametrize("terminal", [False, True])
def test_the_primary_rank_shows_a_warning_if_it_is_connected(terminal):
    desk = Desk(terminal=terminal)
    connection = desk.come()
    desk.warn("ranks 1-3: no")
    assert connection.shown == ["ranks 1-3: no"]
    assert desk.printed == []


@pytest.mark.parametrize("come", [False, True], ids=["not yet there", "gone"])
def test_without_the_primary_rank_the_terminal_of_run_shows_a_warning_at_once(come):
    desk = Desk(terminal=True)
    if come:
        desk.come()
        desk.stream.connection = None
    desk.warn("rank 1: no")
    assert desk.printed == ["tracker-daemon: rank 1: no"]
    assert desk.come().shown == []


def test_without_a_terminal_a_warning_waits_for_the_primary_rank():
    desk = Desk(terminal=False)
    desk.warn("rank 1: no")
    assert desk.come().shown == ["rank 1: no"]
    desk.stream.connection = None
    desk.warn("rank 1: again")
    connection = desk.come()
    assert connection.shown == ["rank 1: again"]


@pytest.mark.parametrize("end", ["finished", "lost"])
def test_after_the_primary_rank_s_end_nothing_waits_for_it(end):
    desk = Desk(terminal=False)
    desk.come()
    setattr(desk.stream, end, True)
    desk.stream.connection = None
    desk.warn("rank 1: no")
    again = Shown(desk.stream)
    desk.notices.send_kept(again)
    assert again.shown == []


def test_another_rank_gets_none_of_them():
    desk = Desk(terminal=False)
    desk.warn("rank 1: no")
    session = Shown(desk.other.stream)
    desk.notices.send_kept(session)
    assert session.shown == []


def test_a_run_that_is_forgotten_keeps_none():
    desk = Desk(terminal=False)
    desk.warn("rank 1: no")
    desk.notices.forget(frozenset())
    assert desk.come().shown == []
    desk.notices.show_new(SimpleNamespace(run_id="unknown", warnings=desk.run.live.warnings))

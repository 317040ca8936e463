"""Heartbeats: how often they commit, and which state."""

import threading

import pytest

from tracker_daemon.backends.child.heartbeat import Heartbeat
from tracker_protocol import limits

PATIENCE_S = 20.0


class Journal:
    def __init__(self, wanted=1):
        self.states, self.wanted, self.enough = [], wanted, threading.Event()

    def commit(self, state):
        self.states.append(state)
        if len(self.states) >= self.wanted:
            self.enough.set()


def test_steps_that_follow_soon_commit_nothing(monkeypatch):
    monkeypatch.setattr(limits, "CHILD_HEARTBEAT_S", 3600.0)
    journal = Journal()
    heartbeat = Heartbeat(journal.commit, lambda: b"state")
    heartbeat.beat()
    with heartbeat.keep_beating():
        pass
    assert journal.states == []


def test_a_beat_commits_the_state_of_its_moment(monkeypatch):
    monkeypatch.setattr(limits, "CHILD_HEARTBEAT_S", 0.0)
    journal, states = Journal(), iter((b"first", b"second"))
    heartbeat = Heartbeat(journal.commit, lambda: next(states))
    heartbeat.beat()
    heartbeat.beat()
    assert journal.states == [b"first", b"second"]


def test_a_long_step_beats_until_it_ends_and_no_longer(monkeypatch):
    monkeypatch.setattr(limits, "CHILD_HEARTBEAT_S", 0.01)
    journal = Journal(wanted=3)
    with Heartbeat(journal.commit, lambda: b"state").keep_beating():
        assert journal.enough.wait(PATIENCE_S)
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}
    assert set(journal.states) == {b"state"}


def test_a_step_that_fails_ends_the_heartbeat_too(monkeypatch):
    monkeypatch.setattr(limits, "CHILD_HEARTBEAT_S", 0.01)
    journal = Journal()

    def step():
        with Heartbeat(journal.commit, bytes).keep_beating():
            assert journal.enough.wait(PATIENCE_S)
            raise OSError("disk")

    with pytest.raises(OSError, match="disk"):
        step()
    assert "heartbeat" not in {thread.name for thread in threading.enumerate()}

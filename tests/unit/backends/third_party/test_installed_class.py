"""A class of an installed package as a backend: its calls, and the effect of its errors."""

from __future__ import annotations

import json
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest

from tracker_client import TrackerBackend
from tracker_daemon.aggregation.values.record import RecordBlock, TextCell
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.third_party.installed_class import InstalledClassBackend
from tracker_daemon.errors import BackendRefused, BackendUnavailable, PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
from tracker_protocol import limits

RUN = RunDescription("r", "the-project", "n", Path("/out"), options={"colour": "blue"})


class Kept(TrackerBackend):
    made: ClassVar = []

    def __init__(self, project_name, config, outdir, rank, colour="none"):
        self.described = (project_name, config, outdir, rank, colour)
        self.calls = []
        self.fails = {}
        self.made.append(self)

    def log(self, metrics, step=None, commit=True):
        if self.fails.get(step, 0) > 0:
            self.fails[step] -= 1
            raise self.error
        self.calls.append((step, metrics))

    def log_config(self, config):
        self.calls.append(config)

    def finish(self):
        self.calls.append("finish")


@pytest.fixture
def backend(monkeypatch):
    monkeypatch.setattr(Kept, "made", [])
    backend = InstalledClassBackend("kept", Kept)
    backend.open(RUN, None)
    return backend


@pytest.fixture
def kept(backend):
    return Kept.made[0]


def rows(number, steps, **fields):
    steps = np.array(steps, np.int64)
    values = np.arange(2.0 * len(steps)).reshape(-1, 2)
    block = RecordBlock(1, 1, ("a", "b"), steps, steps, values, **fields)
    return OutboxEntry(number, EntryKind.RECORDS, block.to_bytes())


def never(_):
    raise AssertionError("nothing is committed on the way")


def test_it_is_constructed_as_the_contract_says_with_its_own_options(kept):
    assert kept.described == ("the-project", {}, "/out", 0, "blue")


def test_records_configurations_and_the_end_come_in_order(backend, kept):
    valid = np.array([[True, False], [True, True]])
    entries = [
        OutboxEntry(1, EntryKind.CONFIG, b'{"lr": 0.1}'),
        rows(2, [5, 6], valid=valid, texts=(TextCell(0, "t", "x"),)),
        OutboxEntry(3, EntryKind.END, b'{"status": "FINISHED"}'),
    ]
    backend.deliver(entries, never)
    assert kept.calls == [{"lr": 0.1}, (5, {"a": 0.0, "t": "x"}), (6, {"a": 2.0, "b": 3.0}), "finish"]
    assert backend.set_aside() == []


def test_an_outage_is_tried_again_for_ever_and_no_row_is_given_twice(backend, kept):
    kept.fails, kept.error = {2: limits.INSTALLED_CLASS_TRIES_MAX + 3}, ConnectionError("down")
    state = []
    for _ in range(limits.INSTALLED_CLASS_TRIES_MAX + 3):
        with pytest.raises(BackendUnavailable, match="down"):
            backend.deliver([rows(1, [1, 2, 3])], state.append)
        backend.close()
        backend.open(RUN, state[-1])
    backend.deliver([rows(1, [1, 2, 3])], never)
    assert [call[0] for call in kept.calls] == [1, 2, 3]
    assert backend.set_aside() == []


def test_a_row_that_it_always_raises_for_is_set_aside_and_the_others_are_given(backend, kept):
    kept.fails, kept.error = {2: 1_000}, ValueError("two")
    for _ in range(limits.INSTALLED_CLASS_TRIES_MAX - 1):
        with pytest.raises(BackendUnavailable, match="two"):
            backend.deliver([rows(1, [1, 2, 3])], lambda _: None)
    backend.deliver([rows(1, [1, 2, 3]), rows(2, [4])], never)
    assert [call[0] for call in kept.calls] == [1, 3, 4]
    (aside,) = backend.set_aside()
    assert (aside.entry, aside.records) == (1, 1)
    assert "ValueError('two')" in aside.reason
    backend.deliver([rows(3, [5])], never)
    assert backend.set_aside() == []


def test_after_a_restart_another_instance_continues_from_the_state(backend, kept):
    kept.fails, kept.error = {3: 1}, OSError("disk")
    states = []
    with pytest.raises(BackendUnavailable):
        backend.deliver([rows(1, [1]), rows(2, [2, 3, 4])], states.append)
    again = InstalledClassBackend("kept", Kept)
    again.open(RUN, states[-1])
    again.deliver([rows(1, [1]), rows(2, [2, 3, 4])], never)
    assert [call[0] for call in kept.calls] == [1, 2]
    assert [call[0] for call in Kept.made[1].calls] == [3, 4]


def test_what_cannot_be_read_is_poison(backend):
    for kind in (EntryKind.CONFIG, EntryKind.END, EntryKind.RECORDS):
        with pytest.raises(PoisonEntry):
            backend.deliver([OutboxEntry(1, kind, b"\xff")], never)


@pytest.mark.parametrize(
    ("raised", "error"),
    [(TypeError("no such option"), BackendRefused), (OSError("full"), BackendUnavailable)],
)
def test_a_class_that_cannot_be_constructed_waits_with_its_reason(raised, error):
    class Unmade(Kept):
        def __init__(self):
            raise raised

    with pytest.raises(error, match=str(raised)):
        InstalledClassBackend("unmade", Unmade).open(
            RunDescription("r", "p", "n", Path("/out"), options=json.loads("{}")), None
        )

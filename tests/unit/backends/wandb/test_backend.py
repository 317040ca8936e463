"""The W&B backend without a W&B run: which entries it records, and which it skips."""

import json

import pytest

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.wandb.backend import WandbBackend
from tracker_daemon.errors import PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry


@pytest.fixture
def backend(tmp_path):
    pytest.importorskip("wandb")
    backend = WandbBackend()
    backend.open(RunDescription("run-a", "project", "name", tmp_path, options={"mode": "disabled"}), None)
    yield backend
    backend.close()


def never(state):
    raise AssertionError("nothing was to be committed on the way")


def test_changes_of_the_configuration_are_for_other_backends_and_no_poison(backend):
    changes = [{"number": 1, "key": "lr", "old": 0.1, "new": 0.2}]
    entry = OutboxEntry(1, EntryKind.CONFIG_CHANGES, json.dumps(changes).encode())
    assert backend.deliver([entry], never)
    assert backend.set_aside() == []


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (EntryKind.RECORDS, b"\xff["), (EntryKind.HISTOGRAMS, b"\xff["), (EntryKind.FILES, b"\xff["),
        (EntryKind.CONFIG, b"[1]"), (EntryKind.CONFIG, b"{"), (EntryKind.END, b"{}"),
    ],
)  # fmt: skip
def test_an_entry_that_cannot_be_read_is_poison(backend, kind, payload):
    with pytest.raises(PoisonEntry, match="entry 7"):
        backend.deliver([OutboxEntry(7, kind, payload)], never)

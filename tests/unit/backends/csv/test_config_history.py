"""``config_history.jsonl``: each change once, in order."""

from __future__ import annotations

import json

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.csv.backend import CsvBackend
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry


def change(number, **fields):
    return {"number": number, "rank": 0, "key": "lr", "old": number, "new": number + 1, **fields}


def entry(number, *changes):
    return OutboxEntry(number, EntryKind.CONFIG_CHANGES, json.dumps(changes).encode())


def never(state):
    raise AssertionError("nothing was to be committed on the way")


def test_changes_are_lines_and_a_redelivery_adds_none(tmp_path):
    run = RunDescription("run", "project", "name", tmp_path)
    backend = CsvBackend()
    backend.open(run, None)
    state = backend.deliver([entry(1, change(1), change(2))], never)
    backend.deliver([entry(2, change(3))], never)
    backend.close()
    backend.open(run, state)
    backend.deliver([entry(2, change(3)), entry(3, change(4, key="é\ud800"))], never)
    backend.close()
    lines = (tmp_path / "config_history.jsonl").read_text().splitlines()
    assert [json.loads(line)["number"] for line in lines] == [1, 2, 3, 4]


def test_a_file_that_somebody_edited_is_added_to(tmp_path):
    backend = CsvBackend()
    backend.open(RunDescription("run", "project", "name", tmp_path), None)
    backend.deliver([entry(1, change(1))], never)
    with (tmp_path / "config_history.jsonl").open("a") as file:
        file.write("a note\n")
    backend.deliver([entry(2, change(1), change(2))], never)
    backend.close()
    first, note, *others = (tmp_path / "config_history.jsonl").read_text().splitlines()
    assert (json.loads(first), note) == (change(1), "a note")
    assert json.loads(others[-1]) == change(2)


def test_a_history_that_is_another_programs_stays_as_it_is(tmp_path):
    (tmp_path / "config_history.jsonl").write_text("a note\n")
    backend = CsvBackend()
    backend.open(RunDescription("run", "project", "name", tmp_path), None)
    backend.deliver([entry(1, change(1))], never)
    backend.close()
    assert (tmp_path / "config_history.jsonl").read_text() == "a note\n"
    assert json.loads((tmp_path / "config_history-run.jsonl").read_text()) == change(1)

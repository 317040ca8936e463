"""What sync waits for, and what it says of it: read off the daemon's status."""

from __future__ import annotations

import msgspec
import pytest

from tracker_daemon.launch.syncing import can_go_on, is_unfinished, outlook
from tracker_daemon.status.document import BackendStatus, DaemonStatus, RunStatusEntry, StatusDocument


def run(*backends: BackendStatus, ended: str | None = "2026-01-01T00:00:00Z") -> RunStatusEntry:
    return RunStatusEntry(run_id="r1", name="first", ended=ended, backends=backends)


def forwarded(*backends: BackendStatus, ended: str | None = None) -> RunStatusEntry:
    return msgspec.structs.replace(run(*backends, ended=ended), forwarded=True)


BEHIND = BackendStatus(name="mlflow", state="retrying", pending=20)
PAUSED = BackendStatus(name="wandb", state="paused", pending=5)
FORWARDED = BackendStatus(name="upstream", unit="batches", state="healthy", delivered=7)
FORWARDING = BackendStatus(name="upstream", unit="batches", state="retrying", pending=3)
REFUSED = BackendStatus(name="upstream", unit="batches", state="paused", pending=3)
FILES = BackendStatus(name="upstream:files", unit="items", state="healthy", pending=2)
DONE = BackendStatus(name="csv", state="healthy", delivered=20)
CASES = {
    "all is delivered": (run(DONE), False, False, "delivering what is left"),
    "a store is away": (run(DONE, BEHIND), True, True, "delivering 20 records to mlflow"),
    "only what is refused is left": (run(DONE, PAUSED), True, False, "delivering 5 records to wandb"),
    "one is refused, one is away": (
        run(BEHIND, PAUSED), True, True, "delivering 20 records to mlflow, 5 to wandb"
    ),
    "its ranks may come back": (
        run(DONE, ended=None), True, True, "waiting for ranks of first to return or to count as lost"
    ),
    "a run goes on above, which has all of it": (
        forwarded(FORWARDED), False, False, "delivering what is left"
    ),
    "the root is away": (
        forwarded(FORWARDING), True, True, "delivering 3 batches to upstream"
    ),
    "files are on their way up": (
        forwarded(FORWARDED, FILES), True, True, "delivering 2 items to upstream:files"
    ),
    "the root refuses": (
        forwarded(REFUSED), True, False, "delivering 3 batches to upstream"
    ),
    "the root has ended it, and lacks some": (
        forwarded(FORWARDING, ended="2026-01-01T00:00:00Z"), True, True, "delivering 3 batches to upstream"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("entry", "unfinished", "goes_on", "said"), CASES.values(), ids=CASES)
def test_it_waits_as_long_as_waiting_may_bring_anything_and_says_for_what(
    entry: RunStatusEntry, unfinished: bool, goes_on: bool, said: str
) -> None:
    document = StatusDocument(daemon=DaemonStatus(), runs=(entry,))
    assert is_unfinished(entry) is unfinished
    assert can_go_on(document) is goes_on
    assert outlook(document) == f"{said} (Ctrl-C leaves it to the next time)"


def test_one_run_that_goes_on_here_is_waited_for_beside_one_that_goes_on_above() -> None:
    document = StatusDocument(daemon=DaemonStatus(), runs=(forwarded(FORWARDED), run(DONE, ended=None)))
    assert can_go_on(document)
    only_above = StatusDocument(daemon=DaemonStatus(), runs=(forwarded(FORWARDED), run(DONE)))
    assert not can_go_on(only_above)

"""A run's events again: from any snapshot on they give the same state, and the same bits."""

from __future__ import annotations

from collections.abc import Sequence

from tests.support.aggregation.scenario import Scenario, Tick, apply, assert_identical
from tracker_daemon.aggregation.root import snapshot
from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.shared.fold import TickOutput

AT_LEAST_TICKS = 2


def replay(fold: RootFold, ticks: Sequence[Tick]) -> list[TickOutput]:
    settled = []
    for now_ns, events in ticks:
        for event in events:
            apply(fold, event, now_ns)
        settled.append(fold.settle(now_ns))
    return settled


def assert_same(a: TickOutput, b: TickOutput) -> None:
    assert a.configs == b.configs
    assert a.notices == b.notices
    assert len(a.blocks) == len(b.blocks)
    for one, other in zip(a.blocks, b.blocks, strict=True):
        assert_identical(one, other)


def assert_replays(run: Scenario) -> None:
    """From a snapshot after any tick on, and from the beginning, the same comes out, bit for bit.

    A replay ends early once its own snapshot is that of the whole run: what follows is then what follows that
    snapshot, from which a replay begins too. At least two ticks are replayed, from the middle one all.
    """
    whole = RootFold(run.rules)
    saved, settled = [snapshot.dump(whole)], []
    for tick in run.ticks:
        settled += replay(whole, [tick])
        saved.append(snapshot.dump(whole))
    assert_blocks(run, settled)
    for position, payload in enumerate(saved):
        fold, reached = snapshot.load(payload, run.rules), position
        while reached < len(run.ticks):
            (again,) = replay(fold, run.ticks[reached : reached + 1])
            assert_same(again, settled[reached])
            reached += 1
            is_long = reached - position >= AT_LEAST_TICKS and position != len(run.ticks) // 2
            if is_long and snapshot.dump(fold) == saved[reached]:
                break
        else:
            assert_end(fold, whole)


def assert_end(fold: RootFold, whole: RootFold) -> None:
    assert fold.books == whole.books
    assert fold.steps.next_step == whole.steps.next_step
    assert fold.next_deadline_ns() == whole.next_deadline_ns()
    assert fold.emitter.next_ordinal == whole.emitter.next_ordinal


def assert_blocks(run: Scenario, settled: Sequence[TickOutput]) -> None:
    again = [block for tick in settled for block in tick.blocks]
    for one, other in zip(run.blocks, again, strict=True):
        assert_identical(one, other)

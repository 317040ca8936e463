"""Reclaim: history stays within its budget, and what is still needed stays whatever it weighs."""

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.journal_scene import transaction
from tracker_daemon.journal import Reclaimed
from tracker_daemon.journal.retention import weight

KIB = bytes(1024)


def reclaim_all(scene):
    """Reclaim until there is nothing more; return (events, entries) that went."""
    events = entries = 0
    while True:
        with transaction(scene.journal):
            gone = scene.journal.reclaim()
        events, entries = events + gone.events, entries + gone.entries
        if not gone.more:
            return events, entries


def positions(scene, run=None):
    return [event.position for event in scene.events(run)]


def test_events_without_a_snapshot_are_kept_beyond_any_budget(make_scene):
    scene = make_scene(history_bytes=0)
    with transaction(scene.journal):
        scene.append(*[scene.notice(KIB) for _ in range(50)])
    assert reclaim_all(scene) == (0, 0)
    assert len(scene.events()) == 50


def test_the_oldest_events_that_a_snapshot_covers_go_beyond_the_budget(make_scene):
    scene = make_scene(history_bytes=3 * weight(KIB))
    with transaction(scene.journal):
        scene.append(*[scene.notice(KIB) for _ in range(10)])
        scene.journal.put_snapshot(scene.run, 8, b"")
    assert reclaim_all(scene) == (5, 0)
    assert positions(scene) == [6, 7, 8, 9, 10]
    gone = scene.journal.reclaimed(scene.run)
    assert (gone.events, gone.event_bytes) == (5, 5 * weight(KIB))


def test_the_oldest_go_first_over_all_runs_and_those_between_that_are_needed_stay(make_scene):
    scene = make_scene(history_bytes=2 * weight(KIB))
    with transaction(scene.journal):
        live, other = scene.add_run("live"), scene.add_run("other")
        scene.append(*[scene.notice(KIB, run) for _ in range(3) for run in (scene.run, live, other)])
        scene.journal.put_snapshot(scene.run, 9, b"")
        scene.journal.put_snapshot(other, 6, b"")
    reclaim_all(scene)
    assert (positions(scene), positions(scene, live), positions(scene, other)) == ([7], [2, 5, 8], [6, 9])


def test_an_ended_runs_events_are_all_history_and_a_resumed_ones_are_needed_again(make_scene):
    scene = make_scene(history_bytes=4 * weight(KIB))
    with transaction(scene.journal):
        scene.append(*[scene.notice(KIB) for _ in range(10)])
        scene.journal.update_run(scene.run, status="FINISHED")
    assert reclaim_all(scene) == (6, 0)
    with transaction(scene.journal):
        scene.journal.update_run(scene.run, status="RUNNING")
        scene.append(*[scene.notice(KIB) for _ in range(10)])
    assert reclaim_all(scene) == (0, 0)
    assert len(scene.events()) == 14


def test_events_with_empty_payloads_are_bounded_as_well(make_scene):
    scene = make_scene(history_bytes=10 * weight(b""))
    with transaction(scene.journal):
        scene.append(*[scene.notice() for _ in range(1000)])
        scene.journal.put_snapshot(scene.run, 1000, b"")
    reclaim_all(scene)
    assert len(scene.events()) == 10


@pytest.mark.parametrize("reopened", [False, True])
def test_entries_that_a_cursor_needs_are_kept_beyond_any_budget(make_scene, reopened):
    scene = make_scene(history_bytes=0)
    with transaction(scene.journal):
        scene.journal.put_cursor(scene.run, "csv", 0, b"", 0)
        scene.journal.put_cursor(scene.run, "wandb", 0, b"", 0)
        for _ in range(10):
            scene.journal.put_outbox(scene.run, 1, KIB, 1)
        scene.journal.put_cursor(scene.run, "csv", 10, b"", 10)
    if reopened:
        scene.reopen()
    assert reclaim_all(scene) == (0, 0)
    with transaction(scene.journal):
        scene.journal.put_cursor(scene.run, "wandb", 4, b"", 4)
    if reopened:
        scene.reopen()
    assert reclaim_all(scene) == (0, 4)
    assert scene.journal.outbox_after(scene.run, 0, limit_bytes=1)[0].number == 5


def test_entries_have_a_quarter_of_the_budget_and_a_run_without_cursors_pins_none(make_scene):
    scene = make_scene(history_bytes=8 * weight(KIB))
    with transaction(scene.journal):
        for _ in range(10):
            scene.journal.put_outbox(scene.run, 1, KIB, 1)
    assert reclaim_all(scene) == (0, 8)


def test_the_books_still_balance_when_entries_are_gone(make_scene):
    scene = make_scene(history_bytes=0)
    with transaction(scene.journal):
        scene.journal.put_cursor(scene.run, "csv", 0, b"", 0)
        for _ in range(4):
            scene.journal.put_outbox(scene.run, 1, KIB, 5)
        scene.journal.put_cursor(scene.run, "csv", 3, b"", 14, 1)
    reclaim_all(scene)
    scene.reopen()
    backlog = scene.journal.backlog(scene.run)
    assert (backlog.entries, backlog.records, backlog.pending(backlog.cursors[0])) == (4, 20, 5)


def test_no_position_tick_or_number_is_given_again_when_everything_is_gone(make_scene):
    scene = make_scene(history_bytes=0)
    with transaction(scene.journal):
        scene.journal.append([scene.notice() for _ in range(5)], tick=40, time_ns=0)
        scene.journal.put_outbox(scene.run, 1, KIB, 1)
        scene.journal.update_run(scene.run, status="FINISHED")
    assert reclaim_all(scene) == (5, 1)
    scene.reopen()
    assert scene.journal.next_tick == 41
    with transaction(scene.journal):
        assert scene.append(scene.notice()) == [6]
        assert scene.journal.put_outbox(scene.run, 1, b"", 1) == 2


def test_a_reclaim_that_is_rolled_back_took_nothing(make_scene):
    scene = make_scene(history_bytes=0)
    with transaction(scene.journal):
        scene.append(*[scene.notice(KIB) for _ in range(5)])
        scene.journal.update_run(scene.run, status="FAILED")
    scene.journal.begin()
    assert scene.journal.reclaim().events == 5
    scene.journal.rollback()
    assert len(scene.events()) == 5
    assert reclaim_all(scene) == (5, 0)


def test_one_call_takes_a_bounded_amount_and_says_that_there_is_more(make_scene):
    scene = make_scene(history_bytes=0)
    with transaction(scene.journal):
        scene.append(*[scene.notice() for _ in range(10_000)])
        scene.journal.update_run(scene.run, status="FINISHED")
        first = scene.journal.reclaim()
    assert first
    assert first.more
    assert first.events < 10_000
    reclaim_all(scene)
    assert scene.events() == []


def test_needed_events_in_front_do_not_hide_those_that_may_go(make_scene):
    scene = make_scene(history_bytes=0)
    with transaction(scene.journal):
        other = scene.add_run("other")
        scene.append(*[scene.notice() for _ in range(20_000)], scene.notice(run=other))
        scene.journal.put_snapshot(other, 20_001, b"")
    assert reclaim_all(scene) == (1, 0)


def test_rows_that_were_passed_over_go_once_they_may(make_scene):
    scene = make_scene(history_bytes=0)
    with transaction(scene.journal):
        other = scene.add_run("other")
        scene.append(scene.notice(), scene.notice(), scene.notice(run=other))
        scene.journal.put_snapshot(other, 3, b"")
        scene.journal.put_cursor(scene.run, "csv", 0, b"", 0)
        for run in (scene.run, other):
            scene.journal.put_outbox(run, 1, b"", 0)
        assert scene.journal.reclaim() == Reclaimed(1, weight(b""), 1, weight(b""))
        scene.journal.put_snapshot(scene.run, 1, b"")
        scene.journal.put_cursor(scene.run, "csv", 1, b"", 0)
        assert scene.journal.reclaim() == Reclaimed(1, weight(b""), 1, weight(b""))
    assert positions(scene) == [2]


def test_freed_pages_are_filled_again_and_shrink_gives_them_back(make_scene):
    scene = make_scene(history_bytes=0)
    megabyte = bytes(1 << 20)

    def fill():
        with transaction(scene.journal):
            positions = scene.append(*[scene.notice(megabyte) for _ in range(40)])
            scene.journal.put_snapshot(scene.run, positions[-1], b"")

    fill()
    reclaim_all(scene)
    full = scene.journal.size_bytes()
    fill()
    reclaim_all(scene)
    assert scene.journal.size_bytes() < 1.5 * full
    with transaction(scene.journal):
        assert scene.journal.shrink(limit_bytes=1 << 20) == 1 << 20
        assert scene.journal.shrink() > 30 << 20
    scene.reopen()
    assert scene.journal.size_bytes() < 2 << 20


run_index = st.integers(0, 2)
operations = st.lists(
    st.one_of(
        st.tuples(st.just("append"), run_index, st.integers(1, 4)),
        st.tuples(st.just("snapshot"), run_index, st.integers(0, 100)),
        st.tuples(st.just("end"), run_index, st.booleans()),
        st.tuples(st.just("put"), run_index, st.integers(1, 4)),
        st.tuples(st.just("csv"), run_index, st.integers(0, 100)),
        st.tuples(st.just("wandb"), run_index, st.integers(0, 100)),
        st.tuples(st.just("reclaim"), st.just(0), st.just(0)),
        st.tuples(st.just("reopen"), st.just(0), st.just(0)),
        st.tuples(st.just("rollback"), st.just(0), st.just(0)),
    ),
    max_size=40,
)


class Model:
    """What is needed and what is history, said as plainly as can be."""

    def __init__(self, runs):
        self.events = {run: [] for run in runs}
        self.snapshot = dict.fromkeys(runs, 0)
        self.ended = dict.fromkeys(runs, False)
        self.entries = dict.fromkeys(runs, 0)
        self.cursors = {run: {} for run in runs}

    def needed_events(self, run):
        return [p for p in self.events[run] if p > self.snapshot[run] and not self.ended[run]]

    def needed_entries(self, run):
        slowest = min(self.cursors[run].values(), default=self.entries[run])
        return list(range(slowest + 1, self.entries[run] + 1))


def apply(scene, model, operation, run, amount):
    journal = scene.journal
    if operation == "append":
        model.events[run] += scene.append(*[scene.notice(KIB, run) for _ in range(amount)])
    elif operation == "snapshot":
        last = model.events[run][-1] if model.events[run] else 0
        model.snapshot[run] = max(model.snapshot[run], last * amount // 100)
        journal.put_snapshot(run, model.snapshot[run], b"fold")
    elif operation == "end":
        model.ended[run] = amount
        journal.update_run(run, status="FINISHED" if amount else "RUNNING")
    elif operation == "put":
        for _ in range(amount):
            model.entries[run] += 1
            assert journal.put_outbox(run, 1, KIB, 1) == model.entries[run]
    elif operation in {"csv", "wandb"}:
        before = model.cursors[run].get(operation, 0)
        reached = before + (model.entries[run] - before) * amount // 100
        model.cursors[run][operation] = reached
        journal.put_cursor(run, operation, reached, b"", reached)


def history_of(scene, model, kept):
    """Check that nothing needed is gone; return how many events and entries are kept as history."""
    history = entry_history = 0
    for run in model.events:
        found = positions(scene, run)
        needed = model.needed_events(run)
        assert set(needed) <= set(found) | kept[0]
        assert found == [p for p in model.events[run] if p in set(found)]
        history += len([p for p in found if p not in set(needed)])
        numbers = [e.number for e in scene.journal.outbox_after(run, 0, limit_bytes=1 << 30)]
        assert set(model.needed_entries(run)) <= set(numbers) | kept[1][run]
        entry_history += len(set(numbers) - set(model.needed_entries(run)))
    return history, entry_history


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=operations, budget_rows=st.integers(0, 8))
def test_reclaim_keeps_what_is_needed_and_meets_its_budget_whatever_happens(make_scene, steps, budget_rows):
    budget = budget_rows * weight(KIB)
    scene = make_scene(history_bytes=budget)
    with transaction(scene.journal):
        runs = [scene.run, scene.add_run("b"), scene.add_run("c")]
    model = Model(runs)
    # What went while it was history may be called needed again: by a resumed run or a first cursor.
    kept = (set(), {run: set() for run in runs})
    for operation, index, amount in [*steps, ("reclaim", 0, 0)]:
        if operation == "reopen":
            scene.reopen()
        elif operation == "rollback":
            scene.journal.begin()
            scene.append(scene.notice(KIB))
            scene.journal.reclaim()
            scene.journal.rollback()
        elif operation == "reclaim":
            before = {run: set(positions(scene, run)) for run in runs}
            before_entries = {
                run: {e.number for e in scene.journal.outbox_after(run, 0, limit_bytes=1 << 30)}
                for run in runs
            }
            events, entries = history_of(scene, model, kept)
            reclaim_all(scene)
            for run in runs:
                went = before[run] - set(positions(scene, run))
                assert not went & set(model.needed_events(run))
                kept[0].update(went)
                left = {e.number for e in scene.journal.outbox_after(run, 0, limit_bytes=1 << 30)}
                assert not (before_entries[run] - left) & set(model.needed_entries(run))
                kept[1][run].update(before_entries[run] - left)
            # As much history as the budgets allow, and no less.
            kept_history = (min(events, budget_rows), min(entries, budget // 4 // weight(KIB)))
            assert history_of(scene, model, kept) == kept_history
        else:
            with transaction(scene.journal):
                apply(scene, model, operation, runs[index], amount)
        history_of(scene, model, kept)
    scene.journal.close()


@pytest.mark.parametrize("reopened", [False, True])
def test_a_reopened_journal_keeps_as_much_history_as_one_that_stayed_open(make_scene, reopened):
    scene = make_scene(history_bytes=2 * weight(KIB))
    with transaction(scene.journal):
        scene.append(*[scene.notice(KIB) for _ in range(6)])
        scene.journal.put_snapshot(scene.run, 4, b"")
        scene.journal.put_snapshot(scene.run, 5, b"")
    if reopened:
        scene.reopen()
    assert reclaim_all(scene) == (3, 0)
    assert positions(scene) == [4, 5, 6]

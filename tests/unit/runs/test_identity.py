"""Which run of its launch a process joins: by name, by the order of set-up calls, or none."""

from __future__ import annotations

import os
import time
from dataclasses import replace

import pytest

from tests.support.ingest.messages import hello
from tests.support.ingest.rig import DEFAULTS, RULES
from tracker_daemon.journal.rows import StreamRow
from tracker_daemon.runs.identity import Fit
from tracker_daemon.runs.registry import Registry
from tracker_protocol.host_processes import pid_space, start_ticks

LONG_AGO_NS, AN_HOUR_MS = 1, 3_600_000
AGENT = "boot pid:1 100 7"


def process(number):
    return bytes([number]) * 16


def now_ns():
    return time.time_ns()


# ---- who meets -----------------------------------------------------------------------------------


@pytest.mark.parametrize("other", [{"name": "run-2"}, {"project": "p"}, {"name": "n", "project": "p"}])
def test_ranks_with_names_of_their_own_meet_by_the_order_of_their_set_up_calls(door, other):
    first = door.come(1, 0, name="run-1")
    second = door.come(2, 1, **{"name": "run-1", **other})
    assert second.stream.run is first.stream.run
    assert not second.new_run


@pytest.mark.parametrize("other", [{"key": "k"}, {"run_key": "r"}, {"name": "n", "ordinal": 1}])
def test_another_launch_or_run_key_is_another_run_and_so_are_another_name_and_order_together(door, other):
    assert door.come(1, 0).stream.run is not door.come(2, 1, **other).stream.run


def test_trackers_that_ranks_make_in_different_orders_meet_by_name(door):
    train, test = (
        door.come(1 + n, 0, name=name, ordinal=n, process=process(1)).stream.run
        for n, name in enumerate(("train", "test"))
    )
    assert door.come(11, 1, name="test", ordinal=0, process=process(2)).stream.run is test
    assert door.come(12, 1, name="train", ordinal=1, process=process(2)).stream.run is train


def test_a_run_key_tells_runs_apart_whose_names_differ_on_each_rank(door):
    runs = {
        key: door.come(1 + n, 0, run_key=key, name=f"run-{n}", process=process(1)).stream.run
        for n, key in enumerate(("train", "test"))
    }
    assert runs["train"] is not runs["test"]
    assert door.come(11, 1, run_key="test", name="run-8", process=process(2)).stream.run is runs["test"]
    assert door.come(12, 1, run_key="train", name="run-9", process=process(2)).stream.run is runs["train"]


def test_trackers_of_one_process_are_different_runs_and_other_ranks_join_the_lowest_ordinal_first(door):
    runs = [door.come(1 + n, 0, ordinal=n, process=process(1)).stream.run for n in range(3)]
    assert len(set(map(id, runs))) == 3
    joined = [door.come(11 + n, 1, ordinal=n, process=process(2)).stream.run for n in range(3)]
    assert joined == runs


def test_the_next_trial_of_a_process_is_a_run_of_its_own_while_other_ranks_still_run_the_last_one(door):
    first = door.come(1, 0, process=process(1))
    behind = door.come(2, 1, process=process(2))
    first.stream.finished = True
    door.go(first)
    second = door.come(3, 0, ordinal=1, process=process(1))
    assert second.new_run
    assert first.stream.run.attempt == 1
    behind.stream.finished = True
    assert door.come(4, 1, ordinal=1, process=process(2)).stream.run is second.stream.run


def test_a_primary_rank_joins_the_run_that_another_rank_has_opened_by_name_or_by_order(door):
    by_order = door.come(1, 1, name="run-1")
    assert door.come(2, 0, name="run-2").stream.run is by_order.stream.run
    by_name = door.come(3, 1, key="k", name="train", ordinal=1)
    assert door.come(4, 0, key="k", name="train").stream.run is by_name.stream.run


def test_the_primary_rank_s_names_hold_for_ranks_that_come_later(door):
    run = door.come(1, 1, name="run-1", ordinal=3).stream.run
    door.come(2, 0, name="run-2", ordinal=3)
    assert run.named == ("project", "run-2")
    assert door.registry.find(hello(3, 2, world=4, name="run-2", ordinal=0)).fit is Fit.NAME


def test_a_process_that_starts_again_with_another_name_opens_the_next_attempt(door):
    first = door.come(1, 0, name="run-1")
    door.go(first)
    again = door.come(2, 0, name="run-2")
    assert (again.stream.run, again.stream.attempt) == (first.stream.run, 2)


def test_after_a_restart_of_the_daemon_a_process_s_next_tracker_is_still_another_run(door, registry):
    run = door.come(1, 0, process=process(1)).stream.run
    later = Registry(DEFAULTS, RULES)
    (stream,) = run.streams.values()
    row = StreamRow(stream.stream_id, 1, 0, 1, 1, "node0", 1001, process=stream.process)
    again = later.restore(replace(run.row, id=1), [row])
    assert later.find(hello(2, 0, ordinal=1, process=process(1))) is None
    assert later.find(hello(2, 1, ordinal=1, process=process(2))).run is again


# ---- warnings ------------------------------------------------------------------------------------


def test_a_different_name_is_one_warning_that_names_rank_and_names(door):
    door.come(1, 0, name="run-1")
    warnings = [door.come(1 + rank, rank, world=4, name=f"run-{1 + rank}").warning for rank in (1, 2, 3)]
    assert warnings[1:] == ["", ""]
    for part in ("rank 1", "'run-2'", "'run-1'", "run_key"):
        assert part in warnings[0]


@pytest.mark.parametrize("other", [{}, {"name": ""}])
def test_the_same_name_or_none_is_no_warning(door, other):
    door.come(1, 0, name="mine")
    assert door.come(2, 1, **{"name": "mine", **other}).warning == ""


def test_a_primary_rank_that_came_too_late_is_told_what_its_run_keeps(door):
    door.come(1, 1, name="run-1", options={"backends": "csv"})
    told = door.come(2, 0, name="run-2", options={"backends": "memory"})
    for part in ("without rank 0", "name 'run-1'", "backends 'csv'"):
        assert part in told.warning
    door.go(told)
    assert door.come(3, 0, name="run-3").warning == ""


# ---- runs that have ended ------------------------------------------------------------------------


def ended(door, ended_ns, *, ranks=(0,), status="FINISHED", **more):
    for rank in ranks:
        last = door.come(1 + rank, rank, **more)
        door.go(last)
    door.end(last.stream.run, status, ended_ns=ended_ns)
    return last.stream.run


def test_a_rank_that_had_never_connected_joins_a_run_that_ended_meanwhile_and_it_stays_ended(door):
    run = ended(door, now_ns())
    late = door.come(5, 1, age_ms=AN_HOUR_MS)
    assert (late.stream.run, late.stream.attempt) == (run, 1)
    assert (late.new_run, late.reopened, late.new_attempt) == (False, False, False)
    assert not run.running


def test_a_primary_rank_that_had_never_connected_does_so_too(door):
    run = ended(door, now_ns(), ranks=(1,))
    assert door.come(5, 0, age_ms=AN_HOUR_MS).stream.run is run
    assert not run.running


def test_a_rank_that_had_connected_never_returns_to_an_ended_run(door):
    run = ended(door, now_ns(), ranks=(0, 1))
    assert door.come(5, 1, age_ms=AN_HOUR_MS).stream.run is not run


def test_a_process_that_began_after_the_run_s_end_prefers_a_running_run_and_a_primary_opens_one(door):
    run = ended(door, now_ns() - 10**9)
    assert door.registry.find(hello(5, 1, age_ms=1)).fit is Fit.LATE_START
    following = door.come(6, 0, age_ms=1)
    assert following.stream.run is not run
    assert door.come(5, 1, age_ms=1).stream.run is following.stream.run


def test_after_start_timeout_nobody_joins_an_ended_run(door):
    run = ended(door, now_ns())
    run.waiting_since_s -= 601.0
    assert door.registry.find(hello(5, 1, age_ms=AN_HOUR_MS)) is None


# ---- torchrun ------------------------------------------------------------------------------------


def test_a_rank_that_torchrun_s_agent_starts_again_goes_on_in_the_failed_run_without_a_counted_restart(door):
    run = ended(door, LONG_AGO_NS, status="FAILED", agent=AGENT)
    again = door.come(5, 0, agent=AGENT)
    assert (again.stream.run, again.stream.attempt, again.reopened) == (run, 2, True)
    assert door.come(6, 1, agent="boot pid:1 200 8").stream.run is run  # the agent of a new node


@pytest.mark.skipif(not pid_space(), reason="needs /proc")
def test_the_ranks_of_a_new_node_go_on_in_the_failed_run_while_a_former_agent_lives_on_this_host(door):
    alive = f"host {pid_space()} {os.getpid()} {start_ticks(os.getpid())}"
    run = ended(door, LONG_AGO_NS, status="FAILED", agent=alive)
    assert door.come(5, 0, agent="another host's agent").stream.run is run
    other = ended(door, LONG_AGO_NS, status="FAILED", agent=f"{alive}7", key="k")  # that one is dead
    assert door.come(6, 0, agent="another host's agent", key="k").stream.run is not other


@pytest.mark.parametrize(
    ("status", "agent"), [("FINISHED", AGENT), ("FAILED", "boot pid:1 300 9"), ("FAILED", "")]
)
def test_another_agent_s_ranks_or_those_after_a_good_end_are_a_run_of_their_own(door, status, agent):
    run = ended(door, LONG_AGO_NS, status=status, agent=AGENT)
    assert door.come(5, 0, agent=agent).stream.run is not run

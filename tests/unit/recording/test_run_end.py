"""How a run ended, in words."""

from __future__ import annotations

import pytest

from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.recording.run_end import due_ns, verdict


@pytest.fixture
def fold(rig):
    fold = RootFold(rig.run().rules)
    fold.hello(b"s", 0, 20, 1, ())
    return fold


def finish(fold, codes):
    for rank, code in codes.items():
        fold.attempt.membership.exit_codes[rank] = code
        fold.attempt.depart(rank, "finished")


def test_a_run_whose_ranks_all_ended_well_is_finished(fold):
    finish(fold, dict.fromkeys(range(20), 0))
    assert fold.over()
    assert verdict(fold.summary(), {}) == ("FINISHED", "")


def test_a_failed_run_names_its_ranks_by_what_became_of_them(fold):
    finish(fold, {0: 0, 1: 3, 2: -9, 3: 3})
    fold.depart(4, "lost", 0)
    for rank in range(5, 20):
        fold.depart(rank, "absent", 0)
    status, reason = verdict(fold.summary(), {})
    assert status == "FAILED"
    assert reason.split("; ") == [
        "rank 2 ended by SIGKILL",
        "ranks 1, 3 exited with code 3",
        "rank 4 lost contact",
        "ranks 5, 6, 7, 8, 9, 10, 11, 12 and 7 more never connected",
    ]


def test_hosts_and_last_steps_are_named_as_far_as_they_are_known(fold):
    finish(fold, {0: 143, 1: 2, 2: 2})
    fold.attempt.last_step.update({0: 140, 2: 7})
    _, reason = verdict(fold.summary(), {0: "node0", 1: "node1", 3: "node3"})
    assert reason.split("; ") == [
        "ranks 1 on node1, 2 (last step 7) exited with code 2",
        "rank 0 on node0 (last step 140) ended by SIGTERM",
    ]


def test_a_run_that_lost_a_rank_waits_for_its_restart_before_it_ends(fold):
    finish(fold, dict.fromkeys(range(19), 0))
    assert due_ns(fold, 30) is None
    fold.depart(19, "lost", 1000)
    assert due_ns(fold, 30) == 1030
    fold.hello(b"s19", 19, 20, 1, ())
    finish(fold, {19: 0})
    assert due_ns(fold, 30) == 0


def test_a_run_whose_ranks_ended_by_themselves_or_never_came_waits_for_nothing(fold):
    finish(fold, dict.fromkeys(range(19), 1))
    fold.depart(19, "absent", 1000)
    assert due_ns(fold, 30) == 0


def test_the_end_of_the_command_waits_for_no_restart(fold):
    fold.depart(1, "lost", 1000)
    fold.end(1)
    assert due_ns(fold, 30) == 0


def test_a_lost_rank_that_came_back_and_finished_is_no_failure(fold):
    fold.depart(7, "lost", 0)
    fold.hello(b"s7", 7, 20, 1, ())
    finish(fold, dict.fromkeys(range(20), 0))
    assert verdict(fold.summary(), {}) == ("FINISHED", "")


def test_the_command_s_status_stands_for_ranks_that_did_not_finish(fold):
    finish(fold, {0: 0})
    fold.depart(1, "lost", 0)
    fold.end(137)
    assert fold.over()
    status, reason = verdict(fold.summary(), {})
    assert status == "FAILED"
    assert reason.startswith("ranks 2, 3,")
    assert "ended by SIGKILL; rank 1 lost contact" in reason


def test_a_command_that_ended_well_does_not_undo_a_rank_s_own_end(fold):
    finish(fold, {3: 1})
    fold.end(0)
    assert verdict(fold.summary(), {}) == ("FAILED", "rank 3 exited with code 1")

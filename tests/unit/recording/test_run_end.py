"""How a run ended, in words."""

from __future__ import annotations

import pytest

from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.root.snapshot import dump, load
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.aggregation.values.batch import DecodedBatch, Exiting
from tracker_daemon.recording.run_end import due_ns, is_interrupted, verdict


@pytest.fixture
def fold(rig):
    fold = RootFold(rig.run().rules)
    fold.hello(b"s", 0, 20, 1, (), 0)
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
    for rank, step in ((0, 140), (2, 7)):
        fold.attempt.progress.note_step(rank, step, step)
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
    fold.hello(b"s19", 19, 20, 1, (), 0)
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
    fold.hello(b"s7", 7, 20, 1, (), 0)
    finish(fold, dict.fromkeys(range(20), 0))
    assert verdict(fold.summary(), {}) == ("FINISHED", "")


@pytest.fixture
def two():
    fold = RootFold(Rules())
    for rank in range(2):
        fold.hello(b"%d" % rank, rank, 2, 1, (), 0)
    return fold


def exits(fold, rank):
    fold.batch(b"%d" % rank, DecodedBatch(exiting=Exiting()), 0)


def test_the_command_s_status_is_that_of_a_rank_that_is_the_command(two):
    finish(two, {1: 0})
    two.end(137, own=[0])
    assert two.over()
    assert verdict(two.summary(), {}) == ("FAILED", "rank 0 ended by SIGKILL")


def test_a_killed_rank_is_lost_although_the_command_ended_well(two):
    finish(two, {1: 0})
    two.end(0)
    assert verdict(two.summary(), {}) == ("FAILED", "rank 0 lost contact")


def test_a_command_that_ended_well_stands_for_ranks_whose_launchers_report_failures(two):
    two.end(0, reported=[0, 1])
    assert verdict(two.summary(), {}) == ("FINISHED", "")


def test_a_failed_command_says_nothing_about_which_of_its_ranks_failed(two):
    two.end(1, reported=[0, 1])
    assert verdict(two.summary(), {}) == ("FAILED", "ranks 0, 1 lost contact; the command exited with code 1")


def test_a_rank_that_failed_explains_the_failure_of_its_command(two):
    finish(two, {0: 3})
    two.end(1, reported=[0, 1])
    status, reason = verdict(two.summary(), {})
    assert (status, reason) == ("FAILED", "rank 0 exited with code 3; rank 1 lost contact")


def test_a_command_that_ended_well_does_not_undo_a_rank_s_own_end(two):
    finish(two, {1: 1})
    two.end(0, own=[0])
    assert verdict(two.summary(), {}) == ("FAILED", "rank 1 exited with code 1")


def test_a_failed_command_fails_a_run_unless_each_rank_has_called_finish(two):
    finish(two, {0: 0})
    exits(two, 1)
    two.exit_status(1, 0)
    two.end(3)
    assert verdict(two.summary(), {}) == ("FAILED", "the command exited with code 3")


def test_a_failed_command_does_not_fail_a_run_whose_ranks_have_all_called_finish(two):
    finish(two, {0: 0, 1: 0})
    two.end(3)
    assert verdict(two.summary(), {}) == ("FINISHED", "")


def test_ranks_that_never_connected_are_named_and_no_failure(fold):
    finish(fold, {0: 0})
    fold.end(0)
    status, reason = verdict(fold.summary(), {})
    assert status == "FINISHED"
    assert reason == "ranks 1, 2, 3, 4, 5, 6, 7, 8 and 11 more never connected"


def test_a_rank_that_exits_is_over_once_its_exit_status_is_known(two):
    finish(two, {1: 0})
    exits(two, 0)
    assert not two.over()
    two.exit_status(0, 3)
    assert two.over()
    assert verdict(two.summary(), {}) == ("FAILED", "rank 0 exited with code 3")


def test_an_exit_status_that_cannot_be_known_is_no_failure(two):
    finish(two, {1: 0})
    exits(two, 0)
    two.exit_status(0, None)
    assert two.over()
    assert verdict(two.summary(), {}) == ("FINISHED", "")


def test_no_exit_status_is_awaited_over_a_restart(two):
    finish(two, {1: 0})
    exits(two, 0)
    restored = load(dump(two), Rules())
    assert not restored.over()
    restored.restart_timers(0)
    assert restored.over()
    assert restored.summary().exited == {0}


def test_a_rank_whose_process_vanished_is_told_to_call_finish(two):
    finish(two, {1: 0})
    two.vanish(0, 5)
    status, reason = verdict(two.summary(), {})
    assert status == "FAILED"
    assert reason.startswith("rank 0 ended without finish()")
    assert "tracker.finish()" in reason


@pytest.mark.parametrize("code", [130, -2])
def test_ctrl_c_is_an_interruption_whichever_rank_it_ends(two, code):
    finish(two, {0: 1, 1: code})
    assert is_interrupted(two.summary())


@pytest.mark.parametrize("codes", [{0: 0, 1: 0}, {0: 1, 1: 143}])
def test_other_ends_are_no_interruption(two, codes):
    finish(two, codes)
    assert not is_interrupted(two.summary())

"""Attempts, texts, configuration, and what a stream says beside its values."""

from __future__ import annotations

from tests.support.aggregation.scenario import Scenario, apply
from tracker_protocol.v1 import tracker_pb2 as pb

# ---- attempts ------------------------------------------------------------------------------------


def started() -> Scenario:
    run = Scenario(2)
    for rank in (0, 1):
        run.log(rank, 0, loss=rank)
    run.tick()
    return run


def test_a_new_attempt_closes_the_open_cells_of_the_one_before_as_partial() -> None:
    run = started()
    run.log_rows(0, [1, 2], {"loss": [1, 2]})
    run.tick()
    run.join(0, attempt=2)
    run.tick()
    assert run.row(1)["loss/count"] == 1
    assert [(record.attempt, record.step) for record in run.records] == [(1, 0), (1, 1), (1, 2)]


def test_a_new_attempt_closes_first_cells_of_the_one_before() -> None:
    run = Scenario(2)
    run.log_rows(0, [0, 1], {"loss": [1, 2]})
    run.log(1, 1, loss=4)
    run.tick()
    run.join(0, attempt=2)
    run.tick()
    assert run.row(0)["loss"] == 1
    assert run.row(1)["loss/mean"] == 3


def test_a_new_attempt_learns_anew_and_expects_the_same_number_of_ranks() -> None:
    run = started()
    run.join(0, attempt=2, world_size=0)
    run.log(0, 0, loss=5)
    assert run.tick() == []
    run.join(1, attempt=2, world_size=0)
    run.log(1, 0, loss=7)
    run.tick()
    assert run.row(0, attempt=2)["loss/mean"] == 6
    assert run.row(0, attempt=1)["loss/mean"] == 0.5


def test_occurrences_begin_anew_with_an_attempt() -> None:
    run = started()
    for rank in (0, 1):
        run.join(rank, attempt=2)
        run.log(rank, 0, loss=rank)
    run.tick()
    assert [(r.attempt, r.step, r.occurrence) for r in run.records] == [(1, 0, 0), (2, 0, 0)]


def test_an_older_attempts_aggregates_are_late_but_the_primarys_own_values_are_recorded() -> None:
    run = started()
    old = dict(run.clients)
    run.join(0, attempt=2)
    run.tick()
    for rank in (0, 1):
        run.log_rows(rank, [0, 1], {"loss": [7, 8], "fresh": [1, 2]}, client=old[rank])
    run.tick()
    assert [(r.attempt, r.step, r.occurrence, r.cells) for r in run.records[1:]] == [
        (1, 0, 1, {"loss": 7, "fresh": 1}),
        (1, 1, 0, {"loss": 8, "fresh": 2}),
    ]
    assert run.fold.books.late == 8
    assert run.fold.attempt.number == 2


def test_attempts_long_past_are_late_as_a_whole() -> None:
    run = started()
    old = run.clients[0]
    for attempt in range(2, 8):
        run.join(0, attempt=attempt)
    run.log_rows(0, [1], {"loss": [7]}, client=old)
    assert run.tick() == []
    assert run.fold.books.late == 1


def test_an_older_attempts_finish_and_flush_say_nothing_of_the_new_one() -> None:
    run = started()
    old = run.clients[0]
    run.join(0, attempt=2)
    old.body.finish = 3
    old.body.flushed = True
    run.send(0, old)
    members = run.fold.attempt.membership
    assert not members.gone
    assert not members.exit_codes
    assert (run.fold.attempt.progress.flushed_ns < 0).all()


# ---- texts ---------------------------------------------------------------------------------------


def test_a_text_shares_the_record_of_its_step() -> None:
    run = Scenario(2)
    for rank in (0, 1):
        run.log(rank, 0, loss=rank)
        run.say(rank, 0, note=f"from {rank}")
    run.tick()
    assert len(run.records) == 1
    assert run.row(0)["note"] == "from 0"


def test_a_text_waits_for_the_open_cells_of_its_row_and_for_earlier_rows() -> None:
    run = Scenario(2)
    run.say(0, 0, note="free")
    run.log(0, 1, loss=1)
    run.say(0, 1, note="held")
    run.say(0, 5, note="after")
    run.tick()
    assert [record.cells for record in run.records] == [{"note": "free"}]
    run.log(1, 1, loss=1)
    run.tick()
    assert [record["note"] for record in run.records] == ["free", "held", "after"]
    assert run.records[1]["loss"] == 1


def test_a_text_that_comes_after_its_steps_record_makes_a_further_record() -> None:
    run = started()
    run.say(0, 0, note="after")
    run.tick()
    assert [record.cells for record in run.rows(0)[1:]] == [{"note": "after"}]


def test_recorded_ranks_texts_are_recorded_under_their_names() -> None:
    run = Scenario(3, record="2")
    for rank in range(3):
        run.say(rank, 0, note=str(rank))
    run.tick()
    assert run.row(0) == {"note": "0", "note/rank2": "2"}


def test_a_repeated_text_is_another_occurrence() -> None:
    run = Scenario(1)
    for text in ("a", "b"):
        run.say(0, 0, note=text)
    run.tick()
    assert [(r.occurrence, r["note"]) for r in run.records] == [(0, "a"), (1, "b")]


def test_a_record_of_texts_alone_has_their_time() -> None:
    run = Scenario(1)
    run.say(0, 3, note="a")
    run.tick()
    assert run.records[0].time_ns == run.now_ns


# ---- what a stream says beside its values --------------------------------------------------------


def test_the_primarys_configuration_is_handed_on_in_order() -> None:
    run = Scenario(2)
    run.configure(0, '{"a": 1}')
    run.configure(1, '{"a": 2}')
    run.configure(0, '{"b": 3}')
    run.tick()
    assert run.configs == ['{"a": 1}', '{"b": 3}']


def test_dropped_values_are_summed_over_streams_and_shown_with_the_next_record_only() -> None:
    run = started()
    run.drop(0, 5)
    run.drop(1, 3)
    run.gap(2)
    assert run.tick() == []
    for step in (1, 2):
        for rank in (0, 1):
            run.log(rank, step, loss=1)
        run.tick()
    assert run.row(1)["tracker/dropped_points"] == 10
    assert "tracker/dropped_points" not in run.row(2)


def test_a_streams_count_of_dropped_values_counts_once() -> None:
    run = Scenario(1)
    for count in (5, 5, 7):
        run.drop(0, count)
    run.log(0, 0, loss=1)
    run.tick()
    assert run.row(0)["tracker/dropped_points"] == 7


def test_values_dropped_at_the_very_end_are_shown_too() -> None:
    run = started()
    run.drop(0, 4)
    run.finish(0, 1)
    run.tick()
    assert run.records[-1].cells == {"tracker/dropped_points": 4}
    assert run.records[-1].step == 0


def test_rejected_batches_are_counted_apart() -> None:
    run = Scenario(1)
    run.reject()
    run.tick()
    assert run.fold.books.rejected_batches == 1
    assert run.fold.books.received == 0


def test_automatic_steps_with_differing_metrics_are_warned_about_once() -> None:
    run = Scenario(2)
    for step in range(3):
        run.log_rows(0, [step], {"loss": [1], "eval": [1]}, automatic=True)
        run.log_rows(1, [step], {"loss": [1]}, automatic=True)
    run.tick()
    assert len([notice for notice in run.notices if "automatic step" in notice]) == 1


def test_explicit_steps_with_differing_metrics_are_not_warned_about() -> None:
    run = Scenario(2)
    run.log(0, 0, loss=1, eval=1)
    run.log(1, 0, loss=1)
    run.tick()
    assert not run.notices


def test_automatic_steps_go_on_after_the_last_one() -> None:
    run = started()
    run.log_rows(1, [41, 42], {"loss": [1, 1]})
    run.tick()
    assert run.fold.steps.next_step == {0: 1, 1: 43}


def test_automatic_steps_of_an_attempt_go_on_alike_for_all_ranks_from_where_the_furthest_was() -> None:
    run = started()
    run.log_rows(0, [139, 140], {"loss": [1, 1]})
    run.log_rows(1, [138], {"loss": [1]})
    assert [run.fold.next_automatic_step(rank, 2) for rank in (0, 1, 2)] == [141, 141, 141]
    run.join(0, attempt=2)
    assert [run.fold.next_automatic_step(rank, 2) for rank in (0, 1, 2)] == [141, 141, 141]
    run.log_rows(0, [141], {"loss": [1]})
    assert [run.fold.next_automatic_step(rank, 2) for rank in (0, 1)] == [142, 141]
    # before it logged anything it failed again
    run.join(0, attempt=3)
    run.join(0, attempt=4)
    assert run.fold.next_automatic_step(1, 4) == 142


def test_a_resume_from_a_checkpoint_that_rewinds_makes_nothing_late() -> None:
    run = Scenario(2)
    for rank in (0, 1):
        run.log_rows(rank, range(141), {"loss": [float(rank)] * 141})
    run.tick()
    for rank in (0, 1):
        run.join(rank, attempt=2)
        run.log_rows(rank, range(100, 151), {"loss": [float(rank + 2)] * 51})
    run.tick()
    assert run.fold.books.late == 0
    assert [(r.attempt, r.step, r.occurrence) for r in run.records] == [
        *((1, step, 0) for step in range(141)),
        *((2, step, 0) for step in range(100, 151)),
    ]
    assert {run.row(step, attempt=2)["loss/mean"] for step in range(100, 151)} == {2.5}


# ---- the dictionary of names ---------------------------------------------------------------------


def test_names_that_come_with_hello_and_again_with_a_resent_batch_keep_their_indices() -> None:
    run = Scenario(1)
    client = run.clients[0]
    client.add_rows([0], {"a": [1]}, [0], automatic=False)
    first = client.take()
    client.add_rows([1], {"b": [2]}, [0], automatic=False)
    second = client.take()
    run.join(0)  # the whole dictionary, before the batches that introduce it
    for body in (first, second):
        apply(run.fold, ("batch", (client.stream, body)), run.now_ns)
    run.log(0, 2, a=3, b=4)
    run.tick()
    assert [run.row(step) for step in range(3)] == [{"a": 1}, {"b": 2}, {"a": 3, "b": 4}]


def test_names_of_batches_that_never_came_are_known_from_the_next_hello() -> None:
    run = Scenario(1)
    client = run.clients[0]
    client.key("lost")
    client.take()
    run.join(0)
    run.log(0, 0, kept=1)
    run.tick()
    assert run.row(0) == {"kept": 1}


def test_values_of_metrics_that_were_never_named_are_rejected_and_warned_about_once() -> None:
    run = Scenario(1)
    run.log(0, 0, a=1)
    names = len(run.fold.streams[run.clients[0].stream].names)
    body = pb.BatchBody()
    body.blocks.add(keys=[names], steps=bytes(8), times=bytes(8), rows=bytes(8), values=bytes(8))
    body.texts.add(keys=[names], steps=bytes(8), times=bytes(8), rows=bytes(8), values=["x"])
    body.names.append("a")  # known already, so that index 1 never comes to be
    for _ in range(2):
        apply(run.fold, ("batch", (run.clients[0].stream, body.SerializeToString())), run.now_ns)
    run.tick()
    assert run.fold.books.rejected == 4
    assert len([notice for notice in run.notices if "has not named" in notice]) == 1

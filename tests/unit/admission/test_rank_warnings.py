"""Equal warnings of many ranks: one sentence, soon, and at most once a minute."""

from tracker_daemon.admission.rank_warnings import RankWarnings
from tracker_protocol import limits

GATHER_S, INTERVAL_S = limits.WARNING_GATHER_S, limits.WARNING_INTERVAL_S


def texts(warnings, now_s):
    return [text for _, text in warnings.take_due(now_s)]


def test_equal_warnings_of_many_ranks_are_one_sentence_after_a_moment():
    warnings = RankWarnings()
    for rank in range(1, 512):
        warnings.add("run", rank, f"'figure': no number ({rank} values so far)", 0.5)
    assert texts(warnings, 0.5) == []
    assert texts(warnings, 0.5 + GATHER_S) == ["ranks 1-511: 'figure': no number (511 values so far)"]
    assert texts(warnings, 1_000.0) == []


def test_a_cause_comes_again_with_its_new_ranks_a_minute_later():
    warnings = RankWarnings()
    warnings.add("run", 3, "no", 0.0)
    assert texts(warnings, GATHER_S) == ["rank 3: no"]
    warnings.add("run", 3, "no", 2.0)
    warnings.add("run", 7, "no", 30.0)
    assert texts(warnings, GATHER_S + INTERVAL_S - 1) == []
    assert texts(warnings, GATHER_S + INTERVAL_S) == ["ranks 3,7: no"]


def test_causes_and_runs_are_apart():
    warnings = RankWarnings()
    for rank, run, text in ((0, "a", "first"), (1, "a", "second"), (2, "b", "first")):
        warnings.add(run, rank, text, 0.0)
    assert sorted(warnings.take_due(GATHER_S)) == [
        ("a", "rank 0: first"), ("a", "rank 1: second"), ("b", "rank 2: first"),
    ]  # fmt: skip


def test_the_end_of_the_primary_rank_lets_its_run_wait_no_longer():
    warnings = RankWarnings()
    warnings.add("ending", 1, "no", 0.0)
    warnings.add("other", 1, "no", 0.0)
    warnings.hurry("ending")
    assert list(warnings.take_due(0.0)) == [("ending", "rank 1: no")]


def test_a_cause_that_was_passed_on_early_comes_again_after_the_interval_with_all_further_ranks():
    warnings = RankWarnings()
    warnings.add("run", 1, "no", 0.0)
    for _ in range(2):
        warnings.hurry("run")
        list(warnings.take_due(0.0))
    for rank in (2, 3):
        warnings.add("run", rank, "no", 1.0)
    assert texts(warnings, INTERVAL_S - 1) == []
    assert texts(warnings, INTERVAL_S) == ["ranks 2-3: no"]


def test_causes_are_bounded_and_forgotten_with_their_run():
    warnings = RankWarnings()
    for number in range(limits.WARNING_CAUSES_MAX + 50):
        warnings.add("run", 0, "x" * number, 0.0)
    assert len(texts(warnings, GATHER_S)) == limits.WARNING_CAUSES_MAX
    warnings.forget(frozenset())
    warnings.add("run", 0, "y", 0.0)
    assert texts(warnings, GATHER_S) == ["rank 0: y"]

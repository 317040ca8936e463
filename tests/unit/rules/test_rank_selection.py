"""Rank sets and reporter rules: what they mean, what they print as, and what is refused."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.rules.rank_selection import RankSet, ReporterRules, Reporters
from tracker_protocol.limits import WORLD_SIZE_MAX

ranks = st.integers(0, 300)
ranges = st.tuples(ranks, ranks).map(lambda pair: (min(pair), max(pair)))
globs = st.text(
    st.characters(codec="ascii", categories=["L", "N"], include_characters="*?/_=[]."), min_size=1
)


@given(st.lists(ranges))
def test_a_rank_set_holds_exactly_the_ranks_that_were_written(parts: list[tuple[int, int]]) -> None:
    text = ", ".join(str(low) if low == high else f"{low}-{high}" for low, high in parts)
    expected = {rank for low, high in parts for rank in range(low, high + 1)}
    assert {rank for rank in range(302) if rank in RankSet.parse(text)} == expected


@given(st.lists(ranges))
def test_a_rank_set_is_read_back_from_its_own_text(parts: list[tuple[int, int]]) -> None:
    parsed = RankSet.parse(",".join(f"{low}-{high}" for low, high in parts))
    assert RankSet.parse(str(parsed)) == parsed


@pytest.mark.parametrize(
    ("text", "canonical"),
    [
        ("", ""),
        ("all", "all"),
        (" ALL ", "all"),
        ("3,1,2", "1-3"),
        ("0,8-15", "0,8-15"),
        ("5,5", "5"),
        (",4,", "4"),
    ],
)
def test_a_rank_set_prints_in_its_canonical_form(text: str, canonical: str) -> None:
    assert str(RankSet.parse(text)) == canonical


def test_all_holds_every_rank_and_nothing_holds_none() -> None:
    assert WORLD_SIZE_MAX in RankSet.parse("all")
    assert 0 not in RankSet.parse("")


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("0,x", "'x'"),
        ("1-", "'1-'"),
        ("-1", "'-1'"),
        ("1.5", "'1.5'"),
        ("1_0", "'1_0'"),
        ("٣", "whole number"),
        ("3-1", "'3-1' ends before it begins"),
        (str(WORLD_SIZE_MAX), f"end at {WORLD_SIZE_MAX - 1}"),
        ("9" * 5000, "ranks end"),
    ],
)
def test_what_is_no_rank_set_is_refused_by_the_part_that_is_none(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        RankSet.parse(text)


@given(st.lists(st.tuples(globs, st.sampled_from(Reporters))))
def test_reporter_rules_are_read_back_from_their_own_text(rules: list[tuple[str, Reporters]]) -> None:
    written = ReporterRules(tuple(rules))
    assert ReporterRules.parse(str(written)) == written


def test_the_first_rule_that_fits_says_who_reports() -> None:
    rules = ReporterRules.parse("lr=primary, eval/*=primary, eval/loss=all, a=b=ALL")
    assert rules.reporters_of("lr") is Reporters.PRIMARY
    assert rules.reporters_of("eval/loss") is Reporters.PRIMARY
    assert rules.reporters_of("a=b") is Reporters.ALL
    assert rules.reporters_of("LR") is None
    assert ReporterRules.parse("").reporters_of("lr") is None


@pytest.mark.parametrize(
    ("text", "named"),
    [
        ("lr", "'lr' is no rule"),
        ("=primary", "no rule"),
        ("lr=rank0", "'rank0'"),
        ("x" * 600 + "=all", "longer than"),
    ],
)
def test_what_is_no_rule_is_refused_with_what_is_allowed(text: str, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        ReporterRules.parse(text)

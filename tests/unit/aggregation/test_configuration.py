"""The run's configuration: what the primary changes of it, and what other ranks differ in."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.aggregation.scenario import SECOND, Scenario
from tracker_daemon.aggregation.root import snapshot
from tracker_protocol import limits


def configured(world_size: int, documents: dict[int, object], **rules: object) -> Scenario:
    run = Scenario(world_size, **rules)
    for rank, document in documents.items():
        run.configure(rank, json.dumps(document))
    run.tick()
    return run


# ---- changes -------------------------------------------------------------------------------------


def test_each_changed_leaf_is_kept_with_what_it_was_and_is() -> None:
    run = configured(1, {0: {"lr": 0.1, "net": {"width": 3, "depth": 2}, "seed": 1}})
    run.configure(0, '{"lr": 0.2, "net": {"width": 4}, "more": true, "seed": 1}')
    run.tick()
    assert [(c["number"], c["rank"], c["key"], c["old"], c.get("new")) for c in run.config_changes] == [
        (1, 0, "lr", 0.1, 0.2),
        (2, 0, "net.width", 3, 4),
        (3, 0, "net.depth", 2, None),
    ]
    assert "new" not in run.config_changes[2]
    assert run.config_changes[0]["attempt"] == 1
    assert run.config_changes[0]["time"].endswith("+00:00")
    assert run.notices == [
        "rank 0 changed the configuration: lr 0.1 → 0.2, net.width 3 → 4, net.depth 2 → not set"
    ]
    assert run.fold.config.effective == {"lr": 0.2, "net": {"width": 4}, "more": True, "seed": 1}


def test_the_next_attempt_goes_on_from_the_configuration_before() -> None:
    run = configured(1, {0: {"lr": 0.1, "seed": 1}})
    run.join(0, attempt=2)
    run.configure(0, '{"lr": 0.3, "seed": 1}')
    run.tick()
    assert [(c["attempt"], c["key"], c["new"]) for c in run.config_changes] == [(2, "lr", 0.3)]


def test_only_the_first_configuration_of_each_attempt_is_that_of_the_set_up() -> None:
    run = configured(1, {0: {"lr": 0.1}})
    run.configure(0, '{"late": 1}')
    run.tick()
    run.join(0, attempt=2)
    for document in ('{"lr": 0.2}', '{"late": 2}'):
        run.configure(0, document)
    run.tick()
    assert run.configs == ['{"lr": 0.1}', '{"late": 1}', '{"lr": 0.2}', '{"late": 2}']
    assert run.later_configs == ['{"late": 1}', '{"late": 2}']


def test_a_rank_that_was_set_up_without_a_configuration_has_only_later_ones() -> None:
    run = configured(2, {0: {}})
    for rank in (0, 1):
        run.configure(rank, json.dumps({"late": rank}))
    run.tick()
    run.fold = snapshot.load(snapshot.dump(run.fold), run.fold.rules)
    run.configure(0, '{"more": 1}')
    run.tick()
    assert run.configs == run.later_configs == ['{"late": 0}', '{"more": 1}']
    assert len(run.warnings) == 1  # the ranks' first values are compared all the same


def test_the_history_is_bounded_and_few_changes_are_told() -> None:
    run = configured(1, {0: {"step": -1}})
    for step in range(limits.CONFIG_CHANGES_MAX + 50):
        run.configure(0, json.dumps({"step": step}))
    run.tick()
    assert [c["number"] for c in run.config_changes] == [*range(1, limits.CONFIG_CHANGES_MAX + 1)]
    assert run.fold.config.effective == {"step": limits.CONFIG_CHANGES_MAX + 49}
    assert len(run.notices) == 20


def test_a_configuration_that_grows_without_end_is_cut_off_and_told_once() -> None:
    run = Scenario(1)
    piece = "x" * 150_000
    for i in range(9):
        run.configure(0, json.dumps({f"k{i}": piece}))
    run.tick()
    assert len(run.configs) == 6
    assert len(run.warnings) == 1
    assert "k6" in run.warnings[0]
    run.configure(0, '{"k1": 1}')  # what makes room is taken
    run.tick()
    assert len(run.configs) == 7


def test_what_is_not_json_becomes_a_text() -> None:
    run = Scenario(1)
    run.configure(0, '{"a": NaN, "b": [-Infinity]}')
    run.tick()
    assert run.configs == ['{"a": "nan", "b": ["-inf"]}']


# ---- differences ---------------------------------------------------------------------------------


def test_ranks_that_differ_are_told_once_with_keys_ranks_and_values() -> None:
    documents = {rank: {"lr": 0.1, "net": {"width": 3}} for rank in range(4)}
    documents[2] = {"lr": 0.2, "net": {"width": 3}}
    documents[3] = {"lr": 0.2, "net": {"width": 5, "depth": 1}}
    run = configured(4, documents)
    (told,) = run.warnings
    assert told == (
        "ranks 2-3 were set up with another configuration than rank 0, whose values count: "
        "lr is 0.1 on rank 0, 0.2 on rank 2, 0.2 on rank 3; "
        "net.depth is not set on rank 0, 1 on rank 3; net.width is 3 on rank 0, 5 on rank 3"
    )
    assert run.notices == run.warnings
    run.tick()
    assert len(run.notices) == 1
    assert run.configs == [json.dumps(documents[0])]


def test_what_differs_by_nature_is_not_told() -> None:
    documents = {
        r: {
            "rank": r,
            "env": {"local_rank": r, "LOCAL_RANK": r, "RANK": str(r)},
            "seed": 7 + r,
            "data.path": f"/tmp/{r}",
        }
        for r in range(3)
    }
    assert configured(3, documents, may_differ="*rank,seed,data.path").warnings == []
    assert len(configured(3, documents, may_differ="*rank,seed").warnings) == 1


def test_only_what_a_rank_was_set_up_with_is_compared() -> None:
    run = configured(2, {0: {"a": 1}, 1: {"a": 1}})
    run.configure(0, '{"a": 2}')
    run.configure(1, '{"a": 3}')
    run.tick()
    assert run.warnings == []


def test_the_primarys_may_come_last_and_others_need_not_come() -> None:
    run = configured(3, {1: {"a": 2}})
    assert run.warnings == []
    run.configure(0, '{"a": 1}')
    run.tick()
    assert run.warnings == []  # rank 2 may still differ as well
    assert run.fold.next_deadline_ns() == run.now_ns + 5 * SECOND
    run.wait(5)
    assert len(run.warnings) == 1
    assert run.fold.next_deadline_ns() is None
    run.configure(2, '{"a": 3}')
    run.tick()
    assert "rank 2 was set up" in run.warnings[1]


def test_a_rank_without_a_configuration_does_not_differ() -> None:
    run = configured(2, {0: {"a": 1}})
    run.finish(0, 1)
    run.tick()
    assert run.warnings == []


def test_what_waits_is_told_at_the_end() -> None:
    run = configured(3, {0: {"a": 1}, 1: {"a": 2}})
    run.finish(0, 1, 2)
    run.tick()
    assert len(run.warnings) == 1


def test_many_ranks_cost_what_few_do_and_sentences_stay_short() -> None:
    many = 2_000
    same = {rank: {"a": 1} for rank in range(many)}
    run = configured(many, same)
    assert (len(run.fold.config.variants), len(run.fold.config.variant_of)) == (1, 1)
    different = {
        rank: {"a": rank, "b": "x" * 500 * rank, **dict.fromkeys(map(str, range(20)), rank)}
        for rank in range(200)
    }
    run = configured(200, different)
    assert len(run.fold.config.variants) == limits.CONFIG_VARIANTS_MAX
    assert len(run.warnings) == 1
    assert len(run.warnings[0]) < 4_000
    assert run.fold.config.unlisted == 200 - limits.CONFIG_VARIANTS_MAX


def test_an_attempt_is_compared_anew() -> None:
    run = configured(2, {0: {"a": 1}, 1: {"a": 2}})
    for rank in (0, 1):
        run.join(rank, attempt=2)
        run.configure(rank, '{"a": 5}')
    run.tick()
    assert len(run.warnings) == 1


# ---- replay --------------------------------------------------------------------------------------

documents = st.dictionaries(st.sampled_from("abc"), st.sampled_from([1, 2, {"d": 3}, None]), min_size=1)
plays = st.lists(st.tuples(st.integers(0, 3), documents, st.booleans()), max_size=12)


@given(play=plays, cut=st.integers(0, 12))
@settings(deadline=None, max_examples=60)
def test_a_replay_from_a_snapshot_tells_the_same(play, cut) -> None:
    whole, halved = Scenario(4), Scenario(4)
    for run in (whole, halved):
        for i, (rank, document, ends_tick) in enumerate(play):
            run.configure(rank, json.dumps(document))
            if ends_tick:
                run.wait(1)
            if run is halved and i == cut and not run.events:
                run.fold = snapshot.load(snapshot.dump(run.fold), run.fold.rules)
        run.wait(10)
    assert (whole.notices, whole.config_changes, whole.configs) == (
        halved.notices, halved.config_changes, halved.configs,
    )  # fmt: skip
    assert whole.fold.config.plain() == halved.fold.config.plain()

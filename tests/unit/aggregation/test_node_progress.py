"""How far its ranks have come, as a node's daemon says: flushes, steps, ends; never ahead of the values."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from tests.support.aggregation.node_scenario import (
    NodeScenario,
    contributions_of,
    finished_in,
    flushed_in,
    values_in,
)
from tracker_daemon.aggregation.values.batch import DecodedBatch
from tracker_daemon.aggregation.values.contribution import NO_STEP

RANKS = (1, 4, 5)


def test_a_flush_is_told_with_or_after_all_that_was_logged_before_it() -> None:
    node = NodeScenario(8, connected=[4, 5])
    for rank in (4, 5):
        node.log(rank, step=0, loss=1.0)
    node.flush(4)
    assert flushed_in(node.cut_and_tick()) == [4]
    node.log(4, step=1, loss=1.0)
    node.flush(4)
    told = node.cut_and_tick()
    assert contributions_of(told) == []
    assert flushed_in(told) == []
    told = node.cut_and_tick()
    assert len(contributions_of(told)) == 1
    assert flushed_in(told) == [4]


def test_a_rank_that_flushes_with_all_it_sends_is_told_to_have_flushed_at_every_cut() -> None:
    node = NodeScenario(8, connected=[4, 5])
    for rank in (4, 5):
        node.log(rank, step=0, loss=1.0)
    node.cut_and_tick()
    told = []
    for step in range(1, 5):
        node.log(4, step=step, loss=1.0)  # rank 5 lags, so that each row waits for one cut
        node.flush(4)
        told.append(flushed_in(node.cut_and_tick()))
    assert told == [[], [4], [4], [4]]


def test_a_flush_without_news_is_told_once() -> None:
    node = NodeScenario(8, connected=[4, 5])
    assert node.fold.activity().learning
    node.flush(4, 5)
    assert flushed_in(node.cut_and_tick()) == [4, 5]
    assert not node.fold.activity().learning
    node.flush(4, 5)
    assert not node.fold.activity().to_forward
    assert node.cut_and_tick() == []
    node.log(5, step=0, loss=1.0)
    node.flush(4, 5)
    assert flushed_in(node.cut_and_tick()) == [5]


def test_a_flush_in_a_batch_counts_for_what_the_batch_has() -> None:
    node = NodeScenario(8, connected=[4, 5])
    node.clients[4].add_rows([0], {"loss": [1.0]}, [1], automatic=False)
    node.clients[4].body.flushed = True
    node.send(4)
    told = node.cut_and_tick()
    assert flushed_in(told) == [4]
    assert len(contributions_of(told)) == 1


def test_last_steps_are_told_once_they_change() -> None:
    node = NodeScenario(8, connected=[4, 5])
    node.log(4, step=7, loss=1.0)
    node.flush(5)
    (told,) = node.cut_and_tick()
    (progress,) = told.forwarded.progress
    assert progress.ranks.tolist() == [4, 5]
    assert progress.last_steps.tolist() == [7, NO_STEP]
    node.log(5, step=7, loss=1.0)
    (told,) = node.cut_and_tick()
    (progress,) = told.forwarded.progress
    assert (progress.ranks.tolist(), progress.flushed.tolist()) == ([5], [False])
    assert node.fold.summary().last_step == {4: 7, 5: 7}


# ---- any run at all ------------------------------------------------------------------------------


class Watcher:
    """Compares what is told of each rank, batch by batch, with how much of its values was told by then."""

    def __init__(self) -> None:
        self.node = NodeScenario(12, connected=RANKS)
        self.logged = dict.fromkeys(RANKS, 0)
        self.told = dict.fromkeys(RANKS, 0)
        self.flushed_at: dict[int, list[int]] = {rank: [] for rank in RANKS}
        """By rank how much it had logged at each flush that says something."""
        self.flushes_told = dict.fromkeys(RANKS, 0)
        self.told_at_flush = dict.fromkeys(RANKS, -1)
        self._ranks = {client.stream: rank for rank, client in self.node.clients.items()}

    def log(self, rank: int) -> None:
        self.node.log(rank, step=self.logged[rank], loss=1.0)
        self.logged[rank] += 1

    def flush(self, rank: int) -> None:
        self.node.flush(rank)
        if self.logged[rank] not in self.flushed_at[rank]:
            self.flushed_at[rank].append(self.logged[rank])

    def cut(self) -> None:
        self.node.cut()
        self.tick()

    def tick(self) -> None:
        for batch in self.node.tick():
            self._look_at(batch)

    def _look_at(self, batch: DecodedBatch) -> None:
        for stream in finished_in([batch]):
            rank = self._ranks[stream]
            assert self.told[rank] == self.logged[rank]
        for contribution in contributions_of([batch]):
            for value in values_in(contribution, self.node.names):
                self.told[value[1]] += 1
        for rank in flushed_in([batch]):
            self.flushes_told[rank] += 1
            # Each is of a flush before which nothing was logged that is not told.
            assert self.flushes_told[rank] <= sum(at <= self.told[rank] for at in self.flushed_at[rank])
            self.told_at_flush[rank] = self.told[rank]


events = st.tuples(st.sampled_from(["log", "log", "log", "flush"]), st.sampled_from(RANKS))


@settings(max_examples=300, deadline=None)
@given(st.lists(events | st.sampled_from([("cut",), ("cut",), ("tick",)]), max_size=40), st.booleans())
def test_flushes_and_ends_are_never_ahead_of_the_values_and_never_forgotten(
    run: list[tuple[str] | tuple[str, int]], ends: bool
) -> None:
    watcher = Watcher()
    for what, *rank in run:
        getattr(watcher, what)(*rank)
    if ends:
        watcher.node.finish(*RANKS)
        watcher.tick()
    else:
        watcher.cut()
        watcher.cut()
    assert watcher.told == watcher.logged
    for rank, flushed_at in watcher.flushed_at.items():
        assert watcher.told_at_flush[rank] >= max(flushed_at, default=-1)
    assert not watcher.node.fold.activity().to_forward

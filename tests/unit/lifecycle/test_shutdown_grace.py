"""The time that an ending daemon waits for ranks, and the runs that it ends, with a clock that leaps."""

from __future__ import annotations

import math
import signal
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field

import pytest

from tests.support.leaping_loop import LeapingLoop
from tracker_daemon.lifecycle.shutdown_grace import ShutdownGrace


@dataclass
class Run:
    deserted: bool = False
    running: bool = True
    visited: bool = True

    def is_disconnected(self) -> bool:
        return self.deserted


@dataclass
class Registry:
    connections: int = 1
    runs: dict[int, Run] = field(default_factory=lambda: {1: Run()})


@dataclass
class Ending:
    """A daemon that ends, on a loop whose waits take no time."""

    loop: LeapingLoop
    waited_s: float = 0.0

    def grace(self, *arguments: object, **options: object) -> ShutdownGrace:
        return ShutdownGrace(*arguments, clock=self.loop.time, **options)

    def wait(self, grace: ShutdownGrace, *, command_over: bool = False) -> None:
        begun_s = self.loop.time()
        self.loop.run_until_complete(grace.wait(command_over=command_over))
        self.waited_s = self.loop.time() - begun_s

    def signalled(
        self, number: signal.Signals, grace_s: float | None, *, command_over: bool = False
    ) -> ShutdownGrace:
        """After the wait of a daemon with one connected rank that got this signal."""
        grace = self.grace(Registry(), grace_s)
        grace.begin(number)
        self.wait(grace, command_over=command_over)
        return grace


@pytest.fixture
def ending() -> Iterator[Ending]:
    with closing(LeapingLoop()) as loop:
        yield Ending(loop)


@pytest.mark.parametrize(("grace_s", "wait_s"), [(30, 18.5), (10, 4.5), (4, 1.0)])
def test_a_daemon_that_forwards_ends_sooner_than_the_one_above(ending, grace_s, wait_s) -> None:
    grace = ending.grace(Registry(), grace_s, forwards=True)
    grace.begin(signal.SIGTERM)
    ending.wait(grace)
    assert ending.waited_s == pytest.approx(wait_s)


def test_sigterm_with_a_grace_is_the_end_of_the_job_and_of_runs_whose_ranks_outstay_it(ending) -> None:
    grace = ending.signalled(signal.SIGTERM, 30)
    assert ending.waited_s == pytest.approx(20.0)
    assert len(grace.overdue_runs()) == 1
    assert grace.left_s() == pytest.approx(9.5)


@pytest.mark.parametrize(
    ("number", "grace_s", "command_over"),
    [(signal.SIGTERM, None, False), (signal.SIGINT, 30, False), (signal.SIGTERM, 30, True)],
    ids=["no grace", "Ctrl-C", "after the command"],
)
def test_else_ranks_are_served_a_little_longer_and_their_runs_go_on(
    ending, number: signal.Signals, grace_s: float | None, command_over: bool
) -> None:
    grace = ending.signalled(number, grace_s, command_over=command_over)
    assert ending.waited_s == pytest.approx(3.0)
    assert grace.overdue_runs() == []
    assert grace.left_s() == math.inf


def test_nobody_is_waited_for_where_nobody_is_connected_or_no_signal_came(ending) -> None:
    alone = ending.grace(Registry(connections=0), 30)
    alone.begin(signal.SIGTERM)
    for grace in (alone, ending.grace(Registry(), 30)):
        ending.wait(grace)
        assert ending.waited_s == 0.0


def test_the_wait_ends_with_the_last_connection(ending) -> None:
    registry = Registry()
    grace = ending.grace(registry, 30)
    grace.begin(signal.SIGTERM)

    def leave() -> None:
        registry.connections = 0
        grace.note_disconnect()

    ending.loop.call_later(2.0, leave)
    ending.wait(grace)
    assert ending.waited_s == pytest.approx(2.0)


@pytest.mark.parametrize("run", [Run(deserted=True), Run(running=False), Run(visited=False)])
def test_runs_that_have_ended_or_that_nobody_is_connected_to_are_not_ended_again(run: Run) -> None:
    found = ShutdownGrace(Registry(runs={1: run}), 30)
    found.begin(signal.SIGTERM)
    assert found.overdue_runs() == []

"""The time that an ending daemon waits for ranks, and the runs that it ends, with a fake clock."""

from __future__ import annotations

import asyncio
import math
import signal
from dataclasses import dataclass, field

import pytest

from tracker_daemon.lifecycle import shutdown_grace
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


@pytest.fixture
def waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The times that were waited for, each of which is over at once."""
    waited: list[float] = []

    async def over_at_once(awaitable: object, timeout_s: float) -> None:
        awaitable.close()
        waited.append(timeout_s)
        raise asyncio.TimeoutError

    monkeypatch.setattr(shutdown_grace.asyncio, "wait_for", over_at_once)
    monkeypatch.setattr(shutdown_grace.time, "monotonic", lambda: 1000.0)
    return waited


def told(number: signal.Signals, grace_s: float | None, *, command_over: bool = False) -> ShutdownGrace:
    """After the wait of a daemon with one connected rank that got this signal."""
    found = ShutdownGrace(Registry(), grace_s)
    found.signalled(number)
    asyncio.run(found.wait(command_over=command_over))
    return found


@pytest.mark.parametrize(("grace_s", "wait_s"), [(30, 18.5), (10, 4.5), (4, 1.0)])
def test_a_daemon_that_forwards_ends_sooner_than_the_one_above(waits, grace_s, wait_s) -> None:
    found = ShutdownGrace(Registry(), grace_s, forwards=True)
    found.signalled(signal.SIGTERM)
    asyncio.run(found.wait(command_over=False))
    assert waits == [wait_s]


def test_sigterm_with_a_grace_is_the_end_of_the_job_and_of_runs_whose_ranks_outstay_it(waits) -> None:
    found = told(signal.SIGTERM, 30)
    assert waits == [20.0]
    assert len(found.outstayed()) == 1
    assert found.left_s() == 29.5


@pytest.mark.parametrize(
    ("number", "grace_s", "command_over"),
    [(signal.SIGTERM, None, False), (signal.SIGINT, 30, False), (signal.SIGTERM, 30, True)],
    ids=["no grace", "Ctrl-C", "after the command"],
)
def test_else_ranks_are_served_a_little_longer_and_their_runs_go_on(
    waits, number: signal.Signals, grace_s: float | None, command_over: bool
) -> None:
    found = told(number, grace_s, command_over=command_over)
    assert waits == [3.0]
    assert found.outstayed() == []
    assert found.left_s() == math.inf


def test_nobody_is_waited_for_where_nobody_is_connected_or_no_signal_came(waits) -> None:
    alone = ShutdownGrace(Registry(connections=0), 30)
    alone.signalled(signal.SIGTERM)
    for found in (alone, ShutdownGrace(Registry(), 30)):
        asyncio.run(found.wait(command_over=False))
    assert waits == []


@pytest.mark.parametrize("run", [Run(deserted=True), Run(running=False), Run(visited=False)])
def test_runs_that_have_ended_or_that_nobody_is_connected_to_are_not_ended_again(waits, run: Run) -> None:
    found = ShutdownGrace(Registry(runs={1: run}), 30)
    found.signalled(signal.SIGTERM)
    assert found.outstayed() == []

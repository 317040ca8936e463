"""Fixtures for tests behind the server: a recorder on a journal, a registry, and a root with one node."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.ingest.clients import Door, NodesDesk
from tests.support.ingest.rig import DEFAULTS, RULES, Rig
from tracker_daemon.runs.registry import Registry


@pytest.fixture
def rig(tmp_path: Path) -> Iterator[Rig]:
    rig = Rig(tmp_path / "state")
    yield rig
    rig.close()


@pytest.fixture
def registry() -> Registry:
    return Registry(DEFAULTS, RULES)


@pytest.fixture
def door(registry: Registry) -> Door:
    return Door(registry)


@pytest.fixture
def play_nodes(rig):
    """Runs a scenario that is a coroutine over a desk with ranks 0 and 1, on streams 1 and 2."""

    def run(scenario, connection_class=sqlite3.Connection):
        async def whole():
            desk = NodesDesk(rig, rig.open(connection_class))
            desk.recorder.start([])
            for rank in (0, 1):
                await desk.rank(rank + 1, rank)
            await scenario(desk)

        asyncio.run(whole())

    return run

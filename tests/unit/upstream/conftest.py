"""Fixtures of the tests of forwarding: scenarios over a root that is in this process."""

from __future__ import annotations

from typing import Any

import pytest

from tests.support.upstream.node_side import Node
from tests.support.upstream.root_server import Play, RootServer
from tracker_daemon.contents.store import ContentStore
from tracker_daemon.ingest.uploads import UploadService
from tracker_protocol import limits


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Play:
    """Reconnections come at once, so that nothing has to be waited for."""
    monkeypatch.setattr(limits, "RECONNECT_BACKOFF_MIN_S", 0.002)
    monkeypatch.setattr(limits, "RECONNECT_BACKOFF_MAX_S", 0.01)
    return Play()


@pytest.fixture
def play_with_store(play: Play, tmp_path: Any) -> Play:
    """As ``play``; the root takes contents too, into ``root.store``."""

    def make() -> RootServer:
        server = RootServer()
        server.store = ContentStore(tmp_path / "root", content_max_bytes=2 << 20)  # type: ignore[attr-defined]
        server.uploads = UploadService(server.store)  # type: ignore[attr-defined]
        return server

    return Play(make)


@pytest.fixture
def play_node(play, tmp_path):
    """Runs a scenario over a node's daemon and its root."""

    def run(scenario):
        async def whole(server):
            async with Node(server, tmp_path / "state") as node:
                await scenario(node)

        play(whole)

    return run

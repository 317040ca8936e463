"""Fixtures of the journal's tests."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.journal_scene import HISTORY_BYTES, Scene


@pytest.fixture
def make_scene(tmp_path: Path) -> Iterator[Callable[..., Scene]]:
    scenes: list[Scene] = []

    def make(history_bytes: int = HISTORY_BYTES, **opening: Any) -> Scene:
        scenes.append(Scene(tmp_path / f"state-{len(scenes)}", history_bytes, opening))
        return scenes[-1]

    yield make
    for scene in scenes:
        scene.journal.close()


@pytest.fixture
def scene(make_scene: Callable[..., Scene]) -> Scene:
    return make_scene()

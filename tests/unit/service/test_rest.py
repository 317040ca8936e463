"""What a script's own daemon does before it rests."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tracker_daemon.errors import JournalError
from tracker_daemon.service.rest import Rest


@dataclass
class Parts:
    """A daemon's delivery and contents, as far as its rest concerns them."""

    settled: bool = True
    delivered: int = 3
    error: Exception | None = None
    done: list[str] = field(default_factory=list)

    def is_settled(self) -> bool:
        return self.settled

    def progress(self) -> int:
        return self.delivered

    async def close_directories(self) -> None:
        self.done.append("directories")

    async def remove_now(self) -> None:
        self.done.append("contents")

    async def write_status(self) -> None:
        if self.error is not None:
            raise self.error
        self.done.append("status")


def rest_of(parts: Parts, directory: Path) -> Rest:
    return Rest(parts, parts, directory, parts.write_status)


def test_it_writes_what_it_would_write_later_and_then_nothing_more(tmp_path: Path) -> None:
    parts = Parts()
    rest = rest_of(parts, tmp_path)
    assert not rest.is_lasting
    asyncio.run(rest.begin())
    assert parts.done == ["directories", "contents", "status"]
    assert rest.is_lasting


@pytest.mark.parametrize("what", ["a run", "a delivery"])
def test_it_does_not_rest_once_anything_happens(tmp_path: Path, what: str) -> None:
    parts = Parts()
    rest = rest_of(parts, tmp_path)
    asyncio.run(rest.begin())
    parts.settled, parts.delivered = (False, 3) if what == "a run" else (True, 4)
    assert not rest.is_lasting


def test_with_anything_left_to_do_it_does_not_rest(tmp_path: Path) -> None:
    parts = Parts(settled=False)
    rest = rest_of(parts, tmp_path)
    asyncio.run(rest.begin())
    assert (parts.done, rest.is_lasting) == ([], False)


@pytest.mark.parametrize("error", [JournalError("closed"), FileNotFoundError("gone")])
def test_a_directory_that_is_being_removed_is_no_error(tmp_path: Path, error: Exception) -> None:
    rest = rest_of(Parts(error=error), tmp_path)
    asyncio.run(rest.begin())
    assert not rest.is_lasting


def test_it_has_no_home_once_its_directory_has_gone_and_nothing_is_left_to_do(tmp_path: Path) -> None:
    parts, home = Parts(), tmp_path / "state"
    home.mkdir()
    rest = rest_of(parts, home)
    assert not rest.is_homeless
    home.rmdir()
    assert rest.is_homeless
    parts.settled = False
    assert not rest.is_homeless

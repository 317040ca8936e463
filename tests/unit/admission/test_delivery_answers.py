"""Answers to ranks that wait for their deliveries."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from tracker_daemon.admission.delivery_answers import DeliveryAnswers
from tracker_daemon.aggregation.shared.fold import WaitingRows
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb


@dataclass(eq=False)
class Session:
    """Plays a rank's connection."""

    run: SimpleNamespace
    answers: list = field(default_factory=list)
    kinds: list = field(default_factory=list)
    all_committed: bool = True

    @property
    def stream(self):
        return SimpleNamespace(run=self.run, rank=0)

    def send(self, message):
        self.answers.append(message.delivered.missing)
        self.kinds.append("recorded" if message.delivered.recorded else "delivered")


@dataclass
class Desk:
    """A run with files, whose rows, deliveries and clock the test sets."""

    rows: WaitingRows = field(default_factory=WaitingRows)
    delivered: bool = False
    trouble: str = ""
    now: float = 0.0
    hastened: int = 0

    def __post_init__(self):
        live = SimpleNamespace(row_id=1, view=SimpleNamespace(open_rows=1, last_entry=7))
        self.run = SimpleNamespace(live=live, running=True)
        fold = SimpleNamespace(waiting_rows=lambda rank: self.rows)
        self.waiting = DeliveryAnswers(
            self, self, SimpleNamespace(fold_of=lambda live: fold), self.on_journal, lambda: self.now
        )
        self.session = Session(self.run)

    async def on_journal(self, work):
        return work(None)

    def hasten(self, row_id):
        self.hastened += 1

    def is_delivered(self, run, *, all_committed):
        return self.delivered and all_committed

    def are_files_delivered(self, run, entry):
        assert entry == 7
        return self.delivered

    def trouble_of_files(self, run):
        return self.trouble

    async def pause(self):
        """Let the answers look some times; return what was answered."""
        await asyncio.sleep(0.05)
        return self.session.answers


def play(scenario):
    asyncio.run(scenario(Desk()))


@pytest.mark.parametrize("files", [False, True])
def test_an_answer_comes_once_everything_is_delivered(files):
    async def scenario(desk):
        desk.waiting.expect(desk.session, pb.AwaitDelivery(files=files))
        assert await desk.pause() == []
        desk.delivered = True
        assert await desk.pause() == [""]
        assert await desk.pause() == [""]
        assert desk.hastened

    play(scenario)


def test_rows_that_wait_for_other_ranks_are_waited_for_some_seconds_and_named():
    async def scenario(desk):
        desk.rows, desk.delivered = WaitingRows((95, 96, 99), (1, 3)), True
        desk.waiting.expect(desk.session, pb.AwaitDelivery(files=True))
        desk.now = limits.FINISH_FILES_WAIT_S - 0.1
        assert await desk.pause() == []
        desk.now = limits.FINISH_FILES_WAIT_S
        (missing,) = await desk.pause()
        assert missing == "rows of the steps 95 to 99 are not in metrics.csv yet, and wait for ranks 1, 3"

    play(scenario)


def test_rows_that_come_in_time_are_no_matter():
    async def scenario(desk):
        desk.rows, desk.delivered = WaitingRows((3,), (1,)), True
        desk.waiting.expect(desk.session, pb.AwaitDelivery(files=True))
        assert await desk.pause() == []
        desk.rows, desk.now = WaitingRows(), 1.0
        assert await desk.pause() == [""]

    play(scenario)


def test_files_that_cannot_be_written_are_reported_with_the_reason():
    async def scenario(desk):
        desk.rows, desk.trouble = WaitingRows(), "no space left on device"
        desk.waiting.expect(desk.session, pb.AwaitDelivery(files=True))
        assert await desk.pause() == []
        desk.now = limits.FINISH_FILES_WAIT_S
        (missing,) = await desk.pause()
        assert "no space left on device" in missing

    play(scenario)


def test_a_rank_that_has_gone_is_not_answered():
    async def scenario(desk):
        desk.waiting.expect(desk.session, pb.AwaitDelivery(files=False))
        desk.waiting.remove(desk.session)
        desk.delivered = True
        assert await desk.pause() == []

    play(scenario)


def test_a_rank_that_asks_for_the_journal_alone_waits_for_no_backend_and_no_row():
    async def scenario(desk):
        desk.rows, desk.session.all_committed = WaitingRows((3,), (1,)), False
        desk.waiting.expect(desk.session, pb.AwaitDelivery(recorded=True))
        assert await desk.pause() == []
        desk.session.all_committed = True
        assert await desk.pause() == [""]
        assert desk.session.kinds == ["recorded"]

    play(scenario)

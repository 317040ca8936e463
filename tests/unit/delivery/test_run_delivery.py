"""When a run's backends are opened."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tracker_daemon.delivery import run_delivery
from tracker_daemon.delivery.health import BackendHealth, DeliveryState
from tracker_daemon.delivery.run_delivery import RunDelivery
from tracker_daemon.files.run_directory import ClaimedDirectory, claim_directory
from tracker_daemon.journal.rows import Backlog, CursorRow
from tracker_daemon.recording.live_run import RunView


class Pumps:
    """Plays the pumps: notes which backends were opened, and for which epoch."""

    def __init__(self):
        self.opened = []
        self.delivered = 0

    def open(self, row_id, run, cursor):
        self.opened.append((row_id, cursor.backend, run.epoch))

    def notify(self, row_id):
        return any(opened[0] == row_id for opened in self.opened)

    def health(self, row_id):
        return {
            backend: BackendHealth(backend, DeliveryState.HEALTHY, "", self.delivered, 0, 0, None)
            for row, backend, _ in self.opened
            if row == row_id
        }


class Journal:
    """Plays the recorder: one run's backlog, and what happens while it is read."""

    def __init__(self):
        self.entries = 0
        self.epoch = 1
        self.meanwhile = []

    async def __call__(self, _work):
        backlog = Backlog(self.entries, self.entries, (CursorRow(1, "csv", 0, b"", 0, 0),))
        await asyncio.sleep(0)
        if self.meanwhile:
            self.meanwhile.pop()()
        return backlog


class Scene:
    def __init__(self, door):
        self.door, self.pumps, self.journal = door, Pumps(), Journal()
        self.delivery = RunDelivery(
            self.pumps, door.registry, self.journal, lambda: self.journal.epoch, on_thread=self.on_thread
        )

    async def on_thread(self, work, *_, **__):
        assert work is claim_directory
        return ClaimedDirectory(Path("/runs/a"), "id")

    def emit(self, run):
        """A tick has brought forth an entry."""
        self.journal.entries += 1
        run.live.view = RunView(last_entry=self.journal.entries)
        self.delivery.deliver_new(run.live)

    async def settled(self):
        for _ in range(20):
            await asyncio.sleep(0)


@pytest.fixture
def play(door):
    return lambda scenario: asyncio.run(scenario(Scene(door), door))


def test_what_comes_while_the_backends_are_being_opened_is_delivered(play):
    async def scenario(scene, door):
        run = door.come(1).stream.run
        run.live.view = RunView(last_entry=1)  # all of it delivered before
        scene.journal.meanwhile.append(lambda: scene.emit(run))
        scene.delivery.deliver_new(run.live)
        await scene.settled()
        assert scene.pumps.opened == [(1, "csv", 1)]

    play(scenario)


def test_after_a_restart_delivery_waits_until_the_ranks_have_told_of_a_loss(play):
    async def scenario(scene, door):
        first, second = door.come(1, 0), door.come(2, 1)
        run = first.stream.run
        for admission in (first, second):
            door.go(admission)
        scene.delivery.resume(run)
        scene.emit(run)
        door.come(1, 0)
        scene.delivery.poll()
        await scene.settled()
        assert scene.pumps.opened == []
        door.come(2, 1)
        scene.journal.epoch = 2
        scene.delivery.poll()
        await scene.settled()
        assert scene.pumps.opened == [(1, "csv", 2)]

    play(scenario)


@pytest.mark.parametrize("gone", ["finished", "lost"])
def test_ranks_that_will_not_come_back_are_not_waited_for(play, gone):
    async def scenario(scene, door):
        first, second = door.come(1, 0), door.come(2, 1)
        door.go(second)
        setattr(second.stream, gone, True)
        scene.delivery.resume(first.stream.run)
        scene.emit(first.stream.run)
        scene.delivery.poll()
        await scene.settled()
        assert scene.pumps.opened

    play(scenario)


@pytest.mark.parametrize("why", ["time", "the end of the run", "the end of the daemon"])
def test_the_wait_for_the_ranks_ends(play, why, monkeypatch):
    if why == "time":
        monkeypatch.setattr(run_delivery, "RETURN_GRACE_S", 0.0)

    async def scenario(scene, door):
        admission = door.come(1)
        run = admission.stream.run
        door.go(admission)
        scene.delivery.resume(run)
        scene.emit(run)
        if why == "the end of the daemon":
            await scene.delivery.open_all()
        else:
            if why == "the end of the run":
                door.end(run)
            scene.delivery.poll()
            await scene.settled()
        assert scene.pumps.opened

    play(scenario)


def test_delivered_means_committed_settled_opened_and_taken(play):
    async def scenario(scene, door):
        run = door.come(1).stream.run
        scene.emit(run)

        def is_delivered(all_committed=True):
            return scene.delivery.is_delivered(run, all_committed=all_committed)

        assert not is_delivered()  # being opened
        await scene.settled()
        assert not is_delivered()  # not taken
        scene.pumps.delivered = 1
        assert is_delivered()
        assert not is_delivered(all_committed=False)
        run.live.view = RunView(last_entry=1, open_rows=1)
        assert not is_delivered()
        run.live.view = RunView(last_entry=1, open_rows=1, status="FAILED")
        assert is_delivered()

    play(scenario)

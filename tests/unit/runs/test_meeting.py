"""The wait of a rank for its run: who waits, for how long, and what ends the wait."""

from __future__ import annotations

import asyncio

import pytest

from tests.support.ingest.messages import hello
from tracker_daemon.errors import ClientRefused, PrimaryAwaited
from tracker_daemon.runs.claims import Claims
from tracker_daemon.runs.meeting import Meeting
from tracker_protocol import limits

WAIT_S = 10.0
TURNS = 20


class Holder:
    """A connection that answers a challenge soon."""

    def __init__(self, stream):
        self.stream = stream

    def challenge(self, nonce):
        asyncio.get_running_loop().call_soon(self.stream.note_contact, nonce)

    def send_notice(self, text):
        raise AssertionError(text)


class Scene:
    """A meeting with a clock of its own, which stands still until it is moved."""

    def __init__(self, registry, wait_s=WAIT_S):
        self.registry = registry
        self.now = 1000.0
        self.meeting = Meeting(registry, Claims(registry, 60.0), wait_s, lambda: self.now)

    async def come(self, *arguments, **keywords):
        message = hello(*arguments, **keywords)
        message.answers_challenges = True
        admission = await self.meeting.admit(message)
        self.registry.connect(admission.stream, Holder(admission.stream))
        admission.stream.run.live.row_id = 1
        return admission

    async def begin(self, *arguments, **keywords):
        """A call in the background, which has come as far as it can."""
        call = asyncio.create_task(self.come(*arguments, **keywords))
        await settle()
        return call


async def settle():
    for _ in range(TURNS):
        await asyncio.sleep(0)


def play(registry, scenario, **more):
    asyncio.run(scenario(Scene(registry, **more)))


def test_a_rank_waits_for_its_primary_rank_and_joins_the_run_that_it_opens(registry):
    async def scenario(scene):
        waiting = await scene.begin(2, 1, options={"backends": "none"})
        assert not waiting.done()
        assert not registry.runs
        primary = await scene.come(1, 0, options={"backends": "memory"})
        assert (await waiting).stream.run is primary.stream.run
        assert primary.stream.run.options.backends == "memory"

    play(registry, scenario)


def test_a_call_ends_after_a_slice_and_the_whole_wait_counts_from_the_first_call(registry, monkeypatch):
    monkeypatch.setattr(limits, "MEETING_SLICE_S", 0.001)

    async def scenario(scene):
        for _ in range(3):
            call = await scene.begin(2, 1)
            scene.now += WAIT_S / 4
            with pytest.raises(PrimaryAwaited, match="rank 1 waits up to 10 s for rank 0"):
                await call
        call = await scene.begin(2, 1)
        assert not call.done()
        scene.now += WAIT_S / 4
        assert (await call).new_run
        # The primary rank joins it, although it gives another name.
        assert not (await scene.come(1, 0, name="other")).new_run

    play(registry, scenario)


@pytest.mark.parametrize(
    "who",
    [
        {"rank": 0},
        {"rank": 1, "options": {"primary_rank": 1}},
        {"rank": 1, "options": {"primary_rank": 2}},  # of two ranks
    ],
)
def test_a_primary_rank_waits_for_nobody_and_where_there_is_none_nobody_waits(registry, who):
    async def scenario(scene):
        assert (await scene.come(1, **who)).new_run

    play(registry, scenario)


def test_without_a_wait_every_rank_opens_a_run_at_once(registry):
    async def scenario(scene):
        assert (await scene.come(1, 1)).new_run

    play(registry, scenario, wait_s=0.0)


def test_a_rank_with_a_name_of_its_own_first_looks_for_a_run_of_that_name(registry, monkeypatch):
    monkeypatch.setattr(limits, "NAME_WAIT_S", 60.0)

    async def scenario(scene):
        train = await scene.come(1, 0, name="train", process=b"p" * 16)
        waiting = await scene.begin(3, 1, name="test")
        assert not waiting.done()
        test = await scene.come(2, 0, name="test", ordinal=1, process=b"p" * 16)
        assert (await waiting).stream.run is test.stream.run is not train.stream.run

    play(registry, scenario)


def test_a_rank_without_a_name_or_after_name_wait_joins_by_order(registry, monkeypatch):
    async def scenario(scene):
        run = (await scene.come(1, 0, name="run-1")).stream.run
        assert (await scene.come(2, 1, world=3)).stream.run is run
        call = await scene.begin(3, 2, world=3, name="run-2")
        scene.now += limits.NAME_WAIT_S
        assert (await call).stream.run is run

    monkeypatch.setattr(limits, "NAME_WAIT_S", 0.001)
    play(registry, scenario)


def test_a_known_process_never_waits(registry):
    async def scenario(scene):
        await scene.come(1, 0)
        other = await scene.come(2, 1)
        registry.disconnect(other.stream, other.stream.connection)
        registry.streams[hello(1).stream_id].run.named = "another", "name"
        assert (await scene.come(2, 1, name="x", ordinal=7)).stream is other.stream

    play(registry, scenario)


def test_two_launches_with_one_key_and_different_names_do_not_take_each_other_s_ranks(registry, monkeypatch):
    monkeypatch.setattr(limits, "NAME_WAIT_S", 0.0)

    async def scenario(scene):
        first = [await scene.come(1 + rank, rank, name="first") for rank in (0, 1)]
        waiting = await scene.begin(12, 1, name="second")
        primary = await scene.come(11, 0, name="second")
        assert primary.new_run
        assert (await waiting).stream.run is primary.stream.run
        assert first[0].stream.run.attempt == 1
        with pytest.raises(ClientRefused, match="held by"):
            await scene.come(21, 0, name="first")

    play(registry, scenario)

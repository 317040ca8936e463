"""Counts: exact whatever threads and signal handlers add."""

import threading

from tests.support.interruptions import at_each_opcode, in_a_thread
from tracker_client.values.tally import Room, Tally


def test_threads_that_add_at_once_lose_no_addition():
    tally = Tally()
    threads = [threading.Thread(target=lambda: [tally.add(2) for _ in range(20_000)]) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert tally.value == 160_000


def test_an_addition_that_is_interrupted_anywhere_counts_once_and_holds_up_nobody():
    tally, interruptions = Tally(), 0

    def handler():
        nonlocal interruptions
        interruptions += 1
        tally.add(100)
        assert in_a_thread(lambda: tally.value) >= 100

    for number in at_each_opcode(lambda: (tally.add(1), tally.value), handler):
        assert tally.value == 101 * (number + 1)
    assert interruptions > 20


def test_room_is_reserved_up_to_its_bound_and_released():
    room = Room(10)
    assert room.reserve(7)
    assert not room.reserve(4)
    assert room.reserve(3)
    room.release(7)
    assert room.held == 3
    assert room.reserve(7)

"""Bisection of a refused request: the refused items are left out, and no others."""

from dataclasses import dataclass

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracker_daemon.backends.mlflow.bisection import store_bisected
from tracker_daemon.errors import BackendRefused, PoisonEntry


@dataclass(frozen=True)
class Item:
    key: str
    bad: bool
    at: int


class Store:
    """Takes a request whole, or refuses it whole for one bad item in it."""

    def __init__(self):
        self.stored, self.requests, self.checked, self.heartbeats = [], 0, 0, 0

    def send(self, items):
        self.requests += 1
        if any(item.bad for item in items):
            raise PoisonEntry("there is a bad one")
        self.stored += items

    def check_writable(self):
        self.checked += 1

    def beat(self):
        self.heartbeats += 1


def bisected(store, items):
    return store_bisected(items, store.send, store.check_writable, store.beat)


def items(*bad):
    return [Item("abc"[at % 3], bool(is_bad), at) for at, is_bad in enumerate(bad)]


@given(st.lists(st.booleans(), min_size=1, max_size=300))
def test_the_bad_ones_are_reported_and_all_others_stored_once(bad):
    store, given_items = Store(), items(*bad)
    refused = bisected(store, given_items)
    assert {one.item for one in refused} == {item for item in given_items if item.bad}
    assert {one.reason for one in refused} <= {"there is a bad one"}
    assert sorted(store.stored, key=lambda item: item.at) == [item for item in given_items if not item.bad]
    assert store.checked == any(bad)
    assert store.heartbeats == store.requests - 1 <= 2 * len(bad)


def test_one_key_that_is_refused_costs_few_requests():
    store = Store()
    given_items = [Item(f"key{at % 20}", at % 20 == 3, at) for at in range(1000)]
    assert len(bisected(store, given_items)) == 50
    assert store.requests < 150


def test_where_the_items_are_not_to_blame_none_is_left_out():
    store = Store()

    def check_writable():
        raise BackendRefused("it takes nothing at all")

    with pytest.raises(BackendRefused):
        store_bisected(items(False, True), store.send, check_writable, store.beat)
    assert (store.stored, store.requests) == ([], 1)

"""The queue of artifacts before the W&B SDK: rows continue meanwhile, and refused artifacts are reported."""

import threading

import pytest

from tests.support.waiting import wait_until
from tracker_daemon.backends.wandb.artifacts import ArtifactQueue
from tracker_daemon.backends.wandb.items import UnusableItem


@pytest.fixture
def gates():
    """An event by the name of each artifact; making the artifact waits for its event."""
    gates = {}
    yield gates
    for gate in gates.values():
        gate.set()


@pytest.fixture
def put(gates, tmp_path):
    def make(place):
        assert gates[place.name].wait(60)
        if place.name == "broken":
            raise OSError("it is gone")
        return place.name

    queue = ArtifactQueue(make)

    def put(*names):
        for name in names:
            gates[name] = threading.Event()
            queue.put(tmp_path / name)
        return queue

    yield put
    queue.close()


def test_nothing_waits_for_an_artifact_that_is_not_ready_and_the_order_stays(put, gates):
    queue, logged = put("first", "second"), []
    gates["second"].set()
    assert list(queue.log_ready(logged.append)) == []
    assert logged == []
    gates["first"].set()
    wait_until(lambda: not list(queue.log_ready(logged.append)) and len(logged) == 2, "both")
    assert logged == ["first", "second"]


def test_the_end_waits_for_all_and_beats_meanwhile(put, gates):
    queue, logged = put("first", "second"), []
    gates["second"].set()
    assert list(queue.log_all(logged.append, gates["first"].set)) == []
    assert logged == ["first", "second"]


def test_a_refused_artifact_is_reported_and_the_others_are_logged(put, gates, tmp_path):
    def log(artifact):
        if artifact == "taken":
            raise UnusableItem("it is a model there")
        logged.append(artifact)

    queue, logged = put("broken", "taken", "good"), []
    for gate in gates.values():
        gate.set()
    refused = list(queue.log_all(log, lambda: None))
    assert [(place, "gone" in reason, "a model" in reason) for place, reason in refused] == [
        (tmp_path / "broken", True, False),
        (tmp_path / "taken", False, True),
    ]
    assert logged == ["good"]


def test_what_was_put_is_known_even_once_it_is_logged(put, gates, tmp_path):
    queue = put("first")
    gates["first"].set()
    assert list(queue.log_all(lambda artifact: None, lambda: None)) == []
    assert tmp_path / "first" in queue
    queue.put(tmp_path / "first", known=False)
    queue.close()
    assert tmp_path / "second" not in queue

"""Values on a device: taken at the call, read when they are there, and by memory alone."""

import threading

import pytest

from tests.support.devices import KINDS, make_device
from tests.support.waiting import wait_until
from tracker_client.values.devices import copies as device_copies
from tracker_client.values.devices.background_reads import ComputedArray
from tracker_client.values.refusals import Refusals, UnusableValue
from tracker_client.values.snapshot import snapshot, snapshot_value
from tracker_protocol import limits


@pytest.fixture(params=KINDS)
def device(request, monkeypatch):
    pytest.importorskip("torch")
    return make_device(request.param, monkeypatch)


def test_a_value_is_that_of_the_call_and_is_read_once_it_has_arrived(device):
    loss = device.tensor(4.5)
    device.hold()
    deferred = snapshot_value(loss)
    loss.fill_(9.0)
    assert not deferred.ready()
    device.finish_work()
    assert deferred.ready()
    assert deferred.value() == 4.5


@pytest.mark.parametrize(
    ("value", "options", "expected"),
    [(3, {}, 3), (True, {}, True), ([[2.5]], {}, 2.5), (0.5, {"dtype": "bfloat16"}, 0.5)],
)
def test_a_value_keeps_its_kind(device, value, options, expected):
    options = {name: getattr(device.torch, one) for name, one in options.items()}
    deferred = snapshot_value(device.tensor(value, **options))
    device.finish_work()
    assert (deferred.value(), type(deferred.value())) == (expected, type(expected))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -0.0])
def test_a_value_that_is_no_ordinary_number_arrives_too(device, value):
    deferred = snapshot_value(device.tensor(value))
    device.finish_work()
    assert deferred.ready()
    assert repr(deferred.value()) == repr(value)


def test_only_the_thread_that_logs_uses_the_device(device):
    found = {}

    def read():
        wait_until(deferred.ready, "the number")
        found["value"] = deferred.value()

    device.hold()
    deferred = snapshot_value(device.tensor(4.5))
    reader = threading.Thread(target=read)
    reader.start()
    device.finish_work()
    reader.join()
    assert found == {"value": 4.5}
    assert device.threads == {threading.get_ident()}


def test_a_value_of_a_graph_under_capture_is_refused_with_the_reason(device, caplog):
    refusals = Refusals()
    before = snapshot_value(device.tensor(1.0))
    loss = device.tensor(4.5)
    with device.capture():
        assert snapshot({"loss": loss, "lr": 0.1}, refusals) == {"lr": 0.1}
        assert snapshot({"loss": loss}, refusals) == {}
        assert before.ready() in (True, False)  # a look at memory, which no capture minds
    assert refusals.count == 2
    assert len(caplog.messages) == 1
    assert "replay" in caplog.text
    device.finish_work()
    assert before.value() == 1.0


def test_slots_are_used_again_only_after_their_numbers_have_arrived(device, monkeypatch):
    monkeypatch.setattr(limits, "DEVICE_NUMBERS_MAX", 8)
    first = [snapshot_value(device.tensor(float(number))) for number in range(8)]
    device.finish_work()
    second = [snapshot_value(device.tensor(float(10 + number))) for number in range(8)]
    device.finish_work()
    assert [one.value() for one in first] == list(range(8))
    assert [one.value() for one in second] == list(range(10, 18))


def test_a_device_that_hangs_takes_a_bounded_number_of_values(device, monkeypatch):
    monkeypatch.setattr(limits, "DEVICE_NUMBERS_MAX", 8)
    values = [device.tensor(float(number)) for number in range(9)]
    device.hold()
    taken = [snapshot_value(value) for value in values[:8]]
    with pytest.raises(UnusableValue, match="on their way"):
        snapshot_value(values[8])
    assert not any(one.ready() for one in taken)
    device.finish_work()
    assert snapshot_value(values[8]).value is not None
    assert [one.value() for one in taken] == list(range(8))


def test_tensors_arrive_whole_and_their_memory_is_released_by_a_thread_that_logs(device):
    tensor = device.tensor([[1, 2], [3, 4]])
    device.hold()
    copies = device_copies.copy_tensors([tensor, device.tensor([0.5])], device.torch)
    tensor.fill_(9)
    assert not copies.ready()
    device.finish_work()
    assert copies.ready()
    assert [one.tolist() for one in copies.tensors] == [[[1, 2], [3, 4]], [0.5]]
    (pool,) = device_copies._pools.values()  # noqa: SLF001 - memory cannot be seen otherwise
    del copies
    assert len(pool._held) == 1  # noqa: SLF001
    kept = device_copies.copy_tensors([tensor], device.torch)
    assert len(pool._held) == 1  # noqa: SLF001
    assert kept.tensors[0].shape == (2, 2)


class HungArray:
    """An array of a library that cannot copy in the background; its device hangs."""

    def __init__(self):
        self.released = threading.Event()
        self.read_by = None

    def item(self):
        self.read_by = threading.current_thread().name
        self.released.wait()
        return 3.0


def test_an_array_that_only_a_read_can_give_is_read_by_a_thread_of_its_own():
    array = HungArray()
    deferred = ComputedArray(array)
    assert not deferred.ready()
    wait_until(lambda: array.read_by is not None, "the read")
    assert not deferred.ready()
    array.released.set()
    wait_until(deferred.ready, "the number")
    assert deferred.value() == 3.0
    assert array.read_by == "tracker-device-reader"

"""Results of collectives: log() takes their value and waits neither itself nor on the sender's thread."""
# ruff: noqa: SLF001 - torch has no public way to make a collective of one's own

import sys
import threading
import time
from types import SimpleNamespace

import pytest

from tests.support.waiting import wait_until
from tracker_client.values.refusals import Refusals
from tracker_client.values.snapshot import UnusableValue, snapshot, snapshot_value

torch = pytest.importorskip("torch")
pytest.importorskip("torch.distributed._functional_collectives")
c10d = pytest.importorskip("torch._C._distributed_c10d")
if not hasattr(c10d, "PythonCallbackWork"):
    pytest.skip("this torch has no works in Python", allow_module_level=True)

from torch.distributed._functional_collectives import AsyncCollectiveTensor  # noqa: E402


class Collective:
    """A collective whose result appears in its tensor once ``gate`` is set."""

    def __init__(self, result):
        self.gate = threading.Event()
        self.elem = torch.tensor(-1.0)
        self.work = c10d.PythonCallbackWork(lambda _: self.complete(result))
        c10d._register_work(self.elem, self.work)
        self.tensor = AsyncCollectiveTensor(self.elem)

    def complete(self, result):
        self.gate.wait()
        self.elem.fill_(result)
        return True


def test_a_running_collective_is_recorded_once_it_is_complete_and_nobody_waits_for_it():
    collective = Collective(4.5)
    begun = time.monotonic()
    deferred = snapshot({"loss": collective.tensor}, Refusals())["loss"]
    assert not deferred.ready()
    assert time.monotonic() - begun < 10
    collective.gate.set()
    wait_until(deferred.ready, "the collective to be complete")
    assert deferred.value() == 4.5


def test_a_collective_that_the_script_waits_for_meanwhile_is_not_read_before_its_end():
    collective = Collective(4.5)
    deferred = snapshot_value(collective.tensor)
    script = threading.Thread(target=collective.tensor.trigger_wait)
    script.start()
    wait_until(lambda: c10d._get_work_registry_size() == 0, "the script to wait")
    for _ in range(100):
        assert not deferred.ready()
        time.sleep(0.001)
    collective.gate.set()
    script.join()
    wait_until(deferred.ready, "the collective to be complete")
    assert deferred.value() == 4.5


def test_a_complete_collective_is_taken_at_once():
    collective = Collective(2.0)
    collective.gate.set()
    assert collective.tensor.item() == 2.0
    assert snapshot_value(collective.tensor) == 2.0


def test_a_collective_that_fails_is_refused_when_it_is_read():
    elem = torch.tensor(0.0)

    def fail(_):
        raise RuntimeError("the other rank is gone")

    work = c10d.PythonCallbackWork(fail)
    c10d._register_work(elem, work)
    deferred = snapshot_value(AsyncCollectiveTensor(elem))
    wait_until(deferred.ready, "the collective to fail")
    with pytest.raises(RuntimeError, match="the other rank is gone"):
        deferred.value()


def test_a_collective_that_only_a_wait_of_the_training_could_read_is_refused(monkeypatch):
    class AsyncCollectiveTensor:  # as torch's, on an accelerator
        device = SimpleNamespace(type="cuda")
        completed = False

        def numel(self):
            return 1

        def trigger_wait(self):
            raise AssertionError("log() waited")

    fake = SimpleNamespace(
        Tensor=AsyncCollectiveTensor, distributed=SimpleNamespace(get_backend=lambda: "cuda:gloo")
    )
    monkeypatch.setitem(sys.modules, "torch", fake)
    with pytest.raises(UnusableValue, match="blocks the training"):
        snapshot_value(AsyncCollectiveTensor())

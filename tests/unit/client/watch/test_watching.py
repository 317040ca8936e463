"""Watching a model: what is recorded, when, under which name; and that training does not notice."""

import copy
import gc
import io
import itertools
import json
import threading
import weakref

import pytest

from tests.support.devices import KINDS, make_device
from tests.support.optional_package import OptionalPackage
from tests.support.waiting import wait_until
from tracker_client.values.refusals import Refusals
from tracker_client.watch import watching
from tracker_client.watch.record import WatchRecord
from tracker_client.watch.statistics import Measured
from tracker_client.watch.watching import Watches

torch, nn = OptionalPackage("torch"), OptionalPackage("torch.nn")


class Watched:
    """Watches a model and keeps what would be sent."""

    def __init__(self):
        self.refusals = Refusals()
        self.attached = []
        self.wanted = True
        self.watches = Watches(self.attached.append, lambda: self.wanted, self.refusals)

    def watch(self, model, log="gradients", log_freq=1, **arguments):
        self.watches.watch(model, log, log_freq, **arguments)
        return self

    @property
    def rows(self):
        return [attachment.resolve().row for attachment in self.attached]

    @property
    def row(self):
        (row,) = self.rows
        return row

    @property
    def measured(self):
        """The tensors in the only record."""
        return sorted({name.rpartition("/")[0] for name in self.row})


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 1))


def train(model, steps=1):
    for _ in range(steps):
        model.zero_grad()
        model(torch.ones(2, 3)).sum().backward()


def test_gradients_and_parameters_are_measured_under_their_names():
    model = net()
    watched = Watched().watch(model, "all")
    train(model)
    row = watched.row
    for name, parameter in model.named_parameters():
        assert row[f"gradients/{name}/norm"] == pytest.approx(parameter.grad.norm().item(), rel=1e-6)
        assert row[f"parameters/{name}/min"] == parameter.min().item()
    assert len(row) == 2 * 4 * 6
    items = watched.attached[0].resolve().items
    assert next(iter(items)) == "gradients/0.weight"
    assert len(items) == 8
    assert sum(items["gradients/0.weight"].counts) == 12


@pytest.mark.parametrize("log", ["gradients", "parameters"])
def test_log_names_what_is_measured_and_every_so_manieth_pass_is(log):
    model = net()
    watched = Watched().watch(model, log, log_freq=3)
    train(model, 8)
    assert len(watched.rows) == 2
    assert all(name.startswith(f"{log}/") for row in watched.rows for name in row)


def test_a_gradient_is_measured_as_it_stands_when_the_pass_is_over_so_accumulated():
    model = net()
    watched = Watched().watch(model, log_freq=2)
    for _ in range(2):
        model(torch.ones(2, 3)).sum().backward()
    assert watched.row["gradients/0.weight/norm"] == pytest.approx(
        model[0].weight.grad.norm().item(), rel=1e-6
    )


def test_frozen_and_unused_and_shared_parameters():
    model = nn.ModuleDict({"used": nn.Linear(3, 3), "frozen": nn.Linear(3, 3), "unused": nn.Linear(3, 3)})
    model["frozen"].requires_grad_(False)
    model["tied"] = nn.Linear(3, 3, bias=False)
    model["tied"].weight = model["used"].weight
    watched = Watched().watch(model, "all")
    model["tied"](model["used"](model["frozen"](torch.ones(1, 3)))).sum().backward()
    assert watched.measured == [
        "gradients/used.bias", "gradients/used.weight", "parameters/frozen.bias", "parameters/frozen.weight",
        "parameters/used.bias", "parameters/used.weight",
    ]  # fmt: skip


def test_a_pass_that_fails_half_way_does_not_stop_the_next():
    class Failing(torch.autograd.Function):
        @staticmethod
        def forward(context, value):
            return value.clone()

        @staticmethod
        def backward(context, gradient):
            raise ZeroDivisionError

    model = net()
    watched = Watched().watch(model)
    with pytest.raises(ZeroDivisionError):
        model[2](Failing.apply(model[0](torch.ones(1, 3)))).sum().backward()
    assert watched.rows == []
    train(model)
    assert len(watched.row) == 4 * 6


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_layers_are_measured_once_a_pass(reentrant):
    from torch.utils.checkpoint import checkpoint

    model = net()
    watched = Watched().watch(model)
    inputs = torch.ones(2, 3, requires_grad=True)
    for _ in range(2):
        model.zero_grad()
        checkpoint(model, inputs, use_reentrant=reentrant).sum().backward()
    names = [name for row in watched.rows for name in row if name.endswith("/norm")]
    assert sorted(names) == sorted(2 * [f"gradients/{name}/norm" for name, _ in model.named_parameters()])


def test_autocast_compiled_and_double_backward_passes_are_measured():
    model = net()
    watched = Watched().watch(torch.compile(model, backend="eager"))
    with torch.autocast("cpu", torch.bfloat16):
        loss = model(torch.ones(2, 3)).sum()
    loss.backward()
    assert watched.row["gradients/2.bias/norm"] == 2.0
    with torch.no_grad():
        model(torch.ones(2, 3))
    assert len(watched.rows) == 1
    (gradient,) = torch.autograd.grad(model(torch.ones(1, 3)).sum(), model[0].weight, create_graph=True)
    gradient.square().sum().backward()
    assert len(watched.rows) == 2


def test_names_are_those_of_the_model_within_its_wrappers():
    model = net()
    for wrapped in (nn.DataParallel(model), torch.compile(nn.DataParallel(model), backend="eager")):
        watched = Watched().watch(wrapped)
        train(model)
        assert "gradients/0.weight/norm" in watched.row
        watched.watches.unwatch()


def test_further_models_have_a_number_before_their_names():
    first, second = net(), net()
    watched = Watched().watch([first, second]).watch(first)
    train(first)
    train(second)
    assert [next(iter(row)) for row in watched.rows] == [
        "gradients/0.weight/norm",
        "gradients/model1.0.weight/norm",
    ]


def test_the_number_can_be_given():
    first, second = net(), net()
    watched = Watched().watch([first, second], idx=4)
    train(first)
    train(second)
    firsts = [next(iter(row)) for row in watched.rows]
    assert firsts == ["gradients/model4.0.weight/norm", "gradients/model5.0.weight/norm"]


def test_a_model_watched_again_is_watched_once_and_unwatched_not_at_all():
    model = net()
    watched = Watched().watch(model).watch(model, log_freq=2)
    train(model, 2)
    assert len(watched.rows) == 1
    watched.watches.unwatch([1, net()])
    watched.watches.unwatch(model)
    train(model, 2)
    assert len(watched.rows) == 1
    hooks = [parameter._post_accumulate_grad_hooks for parameter in model.parameters()]  # noqa: SLF001 - torch lists them nowhere else
    assert not any(hooks)


def test_neither_the_model_nor_a_gradient_is_kept_alive():
    model = net()
    watched = Watched().watch(model, "all")
    train(model)
    alive = [weakref.ref(model[0].weight.grad), weakref.ref(model[0].weight), weakref.ref(model)]
    del model
    gc.collect()
    assert [reference() for reference in alive] == [None, None, None]
    assert watched.rows


def test_a_watched_model_is_copied_and_saved_as_ever():
    model = net()
    watched = Watched().watch(model)
    duplicate = copy.deepcopy(model)
    train(duplicate)
    assert watched.rows == []
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded = torch.load(file, weights_only=False)
    train(loaded)
    assert watched.rows == []


def test_a_model_that_is_moved_or_changed_is_measured_as_it_is():
    model = net()
    watched = Watched().watch(model)
    model.double()
    model(torch.ones(2, 3, dtype=torch.float64)).sum().backward()
    assert watched.row["gradients/2.bias/norm"] == 2.0


def test_a_sparse_gradient_is_measured():
    model = nn.Embedding(10, 2, sparse=True)
    watched = Watched().watch(model)
    model(torch.tensor([1, 1, 3])).sum().backward()
    assert watched.row["gradients/weight/max"] == 2.0
    assert watched.row["gradients/weight/min"] == 1.0


def test_nothing_is_measured_where_nothing_is_recorded():
    model = net()
    watched = Watched().watch(model)
    watched.wanted = False
    train(model)
    assert watched.attached == []


def test_a_failure_is_counted_and_named_once_and_training_goes_on(monkeypatch, caplog):
    model = net()
    watched = Watched().watch(model)

    def fail(*_):
        raise MemoryError("no room")

    monkeypatch.setattr(watching, "measure", fail)
    train(model, 3)
    assert model[0].weight.grad is not None
    assert watched.refusals.count == 3
    (warning,) = caplog.records
    assert "no room" in warning.getMessage()


def test_a_gradient_that_cannot_be_measured_is_left_out(caplog):
    model = net()
    watched = Watched().watch(model, "parameters")
    model.register_buffer("nothing", None)
    model.register_parameter("extra", nn.Parameter(torch.empty(2, device="meta"), requires_grad=False))
    watched.watch(model, "parameters")
    train(model, 2)
    assert [len(row) for row in watched.rows] == [4 * 6, 4 * 6]
    assert watched.refusals.count == 2
    (warning,) = caplog.records
    assert "parameters/extra" in warning.getMessage()


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"log": "everything"}, "everything"),
        ({"log_freq": 0}, "log_freq"),
        ({"log_freq": True}, "log_freq"),
        ({"log_freq": "often"}, "log_freq"),
    ],
)
def test_what_cannot_be_meant_is_refused_with_the_reason(arguments, reason, caplog):
    model = net()
    watched = Watched().watch(model, **arguments)
    train(model)
    assert watched.attached == []
    assert watched.refusals.count == 1
    assert reason in caplog.text


def test_only_models_are_watched_and_none_means_nothing(caplog):
    watched = Watched().watch({"not": "a model"})
    assert "torch.nn.Module" in caplog.text
    model = net()
    watched.watch(model, None)
    train(model)
    assert watched.attached == []
    Watched().watch(nn.ReLU())
    assert "takes a gradient" in caplog.text


@pytest.fixture(params=KINDS)
def device(request, monkeypatch):
    return make_device(request.param, monkeypatch)


def test_results_on_an_accelerator_are_copied_behind_its_stream_and_read_when_they_are_there(device):
    results = (
        device.tensor([[1.0], [0.5], [0.25], [-1.0], [2.0]]),
        device.tensor([[1] * 64]),
        device.tensor([64]),
    )
    device.hold()
    record = WatchRecord(["gradients/w"], [Measured([0], [65], *results)], device.torch)
    results[0].fill_(9.0)
    assert not record.ready()
    assert record.points == 6
    device.finish_work()
    assert record.ready()
    assert record.resolve().row == {
        "gradients/w/norm": 2.0, "gradients/w/mean": 0.5, "gradients/w/std": 0.5, "gradients/w/min": -1.0,
        "gradients/w/max": 2.0, "gradients/w/nonfinite": 1,
    }  # fmt: skip
    assert device.threads == {threading.get_ident()}


# ---- with a tracker and a daemon --------------------------------------------------------------------


def points_by_step(daemon, suffix):
    return {point.step: point.value for point in daemon.points if point.name.endswith(suffix)}


def test_a_tracker_sends_statistics_with_the_step_of_the_next_log(daemon, connect):
    model = net()
    tracker = connect(daemon)
    tracker.watch(model, log_freq=2)
    for step in range(0, 60, 10):
        train(model)
        tracker.log({"loss": 1.0}, step=step)
    tracker.finish()
    assert list(points_by_step(daemon, "gradients/0.weight/norm")) == [10, 30, 50]
    own = [block.own for body in daemon.stream.bodies.values() for block in body.blocks]
    assert own.count(True) >= 1
    items = [(item.kind, item.key, item.step) for item in daemon.stream.items]
    assert items[:2] == [("histogram", "gradients/0.weight", 10), ("histogram", "gradients/0.bias", 10)]
    document = json.loads(daemon.stream.items[0].document)
    assert len(document["edges"]) == 2
    assert sum(document["counts"]) == 12
    train(model)
    assert tracker.status().refused_values == 0


def test_a_rank_whose_items_are_not_recorded_sends_nothing(make_daemon, connect):
    daemon = make_daemon(records_items=False)
    model = net()
    tracker = connect(daemon, rank=1, world_size=2)
    tracker.watch(model, log_freq=1)
    train(model)
    tracker.log({"loss": 1.0})
    tracker.finish()
    assert {point.name for point in daemon.points} == {"loss"}
    assert daemon.stream.items == []
    assert not any("item_ranks" in text for text in daemon.warnings), "every rank may watch its model"


def test_statistics_still_on_their_device_count_as_buffered_and_hold_back_what_follows(
    daemon, connect, monkeypatch
):
    there, asked = threading.Event(), itertools.count()

    def ready(record):
        next(asked)
        return there.is_set()

    monkeypatch.setattr(WatchRecord, "ready", ready)
    model = nn.Linear(3, 2, bias=False)
    tracker = connect(daemon)
    tracker.watch(model, log_freq=1)
    train(model)
    tracker.log({"loss": 1.0}, step=3)
    asked_before = next(asked)
    wait_until(lambda: next(asked) > asked_before + 100, "the sender to ask again and again")
    assert tracker.status().buffered_points == 7
    assert daemon.points == []
    there.set()
    tracker.finish()
    assert {point.step for point in daemon.points} == {3}
    assert len(daemon.points) == 7

"""The tracker against a daemon: what is logged arrives once, in order, whatever the network does."""

import contextlib
import itertools
import json
import logging
import os
import socket
import subprocess
import sys
import textwrap
import threading
from fractions import Fraction
from pathlib import Path
from types import SimpleNamespace

import grpc
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.support.devices import KINDS, make_device
from tests.support.messages import texts_of
from tests.support.waiting import wait_until
from tracker_client import Tracker, TrackerBackend, ezpz_compat, register_backend, setup_tracker
from tracker_client.errors import DaemonRefused, EndpointError
from tracker_protocol import PROTOCOL_VERSION, limits
from tracker_protocol.v1 import tracker_pb2 as pb

TOKEN = "right-token"


def series(daemon, name="loss"):
    return [(point.step, point.value) for point in daemon.points if point.name == name]


# ---- the way there -------------------------------------------------------------------------------


def test_what_is_logged_arrives_in_order_and_finish_waits_until_it_is_recorded(daemon, connect):
    tracker = connect(daemon)
    for step in range(500):
        tracker.log({"loss": step / 2, "step": step}, step)
    tracker.finish()
    assert series(daemon) == [(step, step / 2) for step in range(500)]
    assert daemon.stream.finish == 0
    assert tracker.status().state == "finished"
    assert tracker.status().unacknowledged_batches == 0


def test_the_hello_says_who_this_is_and_unset_options_stay_unset(daemon, connect, monkeypatch):
    monkeypatch.setenv("TRACKER_LAUNCH_ID", "launch")
    tracker = connect(
        daemon, rank=2, world_size=4, local_rank=1, name="n", run_id="r", outdir="/o", project_name="hello-p"
    )
    assert (tracker.run_id, tracker.attempt) == ("r", 1)
    hello = daemon.hellos[0]
    assert (hello.protocol_version, len(hello.stream_id)) == (PROTOCOL_VERSION, 16)
    assert (hello.launch.key, hello.launch.project, hello.launch.name, hello.launch.run_id) == (
        "launch",
        "hello-p",
        "n",
        "r",
    )
    assert (hello.process.rank, hello.process.world_size, hello.process.local_rank) == (2, 4, 1)
    assert (hello.process.pid, hello.process.host) == (os.getpid(), socket.gethostname())
    assert hello.options.outdir == "/o"
    assert not hello.options.HasField("backends")
    assert not hello.options.HasField("primary_rank")


def test_set_ups_are_counted_by_run_key_whatever_their_names_and_those_with_a_run_id_are_not(daemon, connect):
    for project, name, key, run_id in (
        ("counted", None, "count", None),
        ("counted", "other", "count", None),
        ("counted", None, "another count", None),
        ("counted", None, "count", "mine"),
        ("another", None, "count", None),
    ):
        connect(daemon, project_name=project, name=name, run_key=key, run_id=run_id).finish()
    launches = [(hello.launch.run_key, hello.launch.ordinal) for hello in daemon.hellos]
    assert launches == [("count", 0), ("count", 1), ("another count", 0), ("count", 0), ("count", 2)]
    (process,) = {hello.process.id for hello in daemon.hellos}
    assert len(process) == 16
    assert all(hello.process.age_ms > 0 for hello in daemon.hellos)


def test_setting_up_returns_at_once_and_what_is_logged_before_the_daemon_is_there_arrives(
    make_daemon, tmp_path
):
    path = tmp_path / "endpoint.json"
    tracker = setup_tracker("late", endpoint=path, exit_timeout=0.1)
    for step in range(50):
        tracker.log({"loss": 1.0}, step)
    daemon = make_daemon()
    path.write_text(json.dumps({"endpoints": ["127.0.0.1:1", daemon.endpoint], "token": TOKEN}))
    tracker.finish()
    assert len(series(daemon)) == 50


def test_a_unix_socket_is_an_endpoint(make_daemon, connect, tmp_path):
    daemon = make_daemon()
    daemon.stop()
    address = f"unix:{tmp_path}/socket"
    daemon.start(address)
    tracker = connect(daemon, endpoint=address)
    tracker.log({"loss": 1.0})
    tracker.finish()
    assert series(daemon) == [(0, 1.0)]


def test_proxies_of_the_environment_are_ignored(daemon, connect, monkeypatch):
    for name in ("http_proxy", "https_proxy", "grpc_proxy", "HTTP_PROXY", "HTTPS_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("no_proxy", "NO_PROXY", "no_grpc_proxy"):
        monkeypatch.delenv(name, raising=False)
    tracker = connect(daemon)
    tracker.log({"loss": 1.0})
    tracker.finish()
    assert series(daemon) == [(0, 1.0)]


# ---- the data's rules ----------------------------------------------------------------------------


def test_automatic_steps_go_on_from_where_the_daemon_says(make_daemon, connect):
    daemon = make_daemon(next_step=40)
    tracker = connect(daemon)
    tracker.log({"loss": 1.0})
    tracker.log({"loss": 2.0})
    tracker.log({"loss": 3.0}, 7)
    tracker.log({"loss": 4.0})
    tracker.finish()
    assert series(daemon) == [(40, 1.0), (41, 2.0), (7, 3.0), (8, 4.0)]


def test_uncommitted_rows_merge_and_finish_closes_the_last(daemon, connect):
    tracker = connect(daemon)
    tracker.log({"a": 1.0}, step=3, commit=False)
    tracker.log({"b": 2.0})
    tracker.log({"a": 5.0}, commit=False)
    tracker.finish()
    assert [(p.name, p.step, p.value) for p in daemon.points] == [("a", 3, 1.0), ("b", 3, 2.0), ("a", 4, 5.0)]


def test_what_is_recorded_is_the_value_at_the_call(daemon, connect):
    np = pytest.importorskip("numpy")
    tracker = connect(daemon)
    array, metrics = np.array(1.0), {"plain": 1.0}
    metrics["array"] = array
    tracker.log(metrics, np.int64(4))
    array[...] = 9.0
    metrics["plain"] = 9.0
    tracker.finish()
    assert {(p.name, p.step, p.value) for p in daemon.points} == {("plain", 4, 1.0), ("array", 4, 1.0)}


def test_values_still_on_their_device_hold_back_what_was_logged_after_them(daemon, connect, monkeypatch):
    class Pending:
        def __init__(self):
            self.done = False

        def ready(self):
            return self.done

        def value(self):
            return 7.0

    pending = Pending()
    monkeypatch.setattr(
        "tracker_client.trackers.remote_tracker.snapshot", lambda metrics, refusals: {"loss": pending}
    )
    tracker = connect(daemon)
    tracker.log({"loss": object()}, 0)
    tracker.log({"loss": 1.0}, 1)
    wait_until(lambda: len(daemon.heartbeats) > 2)
    assert daemon.points == []
    assert min(daemon.heartbeats[-1:]) > 0  # names a sequence that does not exist yet: not flushed
    assert tracker.status().buffered_points == 2
    pending.done = True
    tracker.finish()
    assert series(daemon) == [(0, 7.0), (1, 1.0)]


def test_a_call_in_a_compiled_function_is_not_traced_and_records_the_values(daemon, connect):
    torch = pytest.importorskip("torch")
    dynamo = pytest.importorskip("torch._dynamo.utils")
    tracker = connect(daemon)

    @torch.compile(backend="eager")
    def step(inputs):
        outputs = inputs * 2
        tracker.log({"loss": outputs.sum(), "lr": 0.5})
        return outputs + 1

    for number in range(4):
        step(torch.full((3,), float(number)))
    frames = dict(dynamo.counters["frames"])
    for number in range(4, 8):
        step(torch.full((3,), float(number)))
    tracker.finish()
    assert dict(dynamo.counters["frames"]) == frames
    assert not any("tracker_client" in str(reason) for reason in dynamo.counters["unimplemented"])
    assert series(daemon) == [(number, 6.0 * number) for number in range(8)]
    assert tracker.status().refused_values == 0


@pytest.fixture(params=KINDS)
def device(request, monkeypatch):
    pytest.importorskip("torch")
    return make_device(request.param, monkeypatch)


def test_heartbeats_go_on_while_a_device_hangs(daemon, connect, device):
    tracker = connect(daemon)
    loss, image = device.tensor(0.5), device.tensor([[0.0, 1.0]])
    device.hold()
    tracker.log({"loss": loss}, step=3)
    tracker.log_image("sample", image)
    before = len(daemon.heartbeats)
    wait_until(lambda: len(daemon.heartbeats) > before + 3, "heartbeats")
    assert daemon.points == []
    assert device.threads == {threading.get_ident()}
    loss.fill_(9.0)
    device.finish_work()
    tracker.finish()
    assert series(daemon) == [(3, 0.5)]
    assert [(item.kind, item.step) for item in daemon.stream.items] == [("image", 3)]


def test_a_value_that_cannot_be_read_is_refused_and_the_rest_of_its_row_is_recorded(
    daemon, connect, monkeypatch, caplog
):
    class Deleted:
        size = 1
        is_fully_addressable = is_fully_replicated = True

        def is_ready(self):
            raise RuntimeError("the array has been deleted")

        def item(self):
            raise AssertionError("an exception is no sign that a value is ready")

    jax = SimpleNamespace(Array=Deleted, core=SimpleNamespace(Tracer=()))
    monkeypatch.setitem(sys.modules, "jax", jax)
    tracker = connect(daemon)
    tracker.log({"gone": Deleted(), "loss": 1.0})
    tracker.finish()
    assert [(point.name, point.value) for point in daemon.points] == [("loss", 1.0)]
    assert tracker.status().refused_values == 1
    assert "has been deleted" in caplog.text


def test_configurations_arrive_in_order_as_json(daemon, connect, caplog):
    tracker = connect(daemon, config={"lr": 1, "path": Path("/x"), 3: {"deep": (1, 2)}})
    tracker.log_config({"lr": 2})
    tracker.log_config({"big": "x" * limits.CONFIG_MAX_BYTES})
    tracker.log_config(3)
    tracker.finish()
    first, second, *rest = [json.loads(document) for document in daemon.stream.config]
    assert first == {"lr": 1, "path": "/x", "3": {"deep": [1, 2]}}
    assert second == {"lr": 2}
    assert len(rest) <= 1
    assert "config" in caplog.text


def test_a_rank_that_is_set_up_without_a_configuration_sends_an_empty_one_first(daemon, connect):
    tracker = connect(daemon)
    tracker.log_config({"late": 1})
    tracker.log_config({"later": 2})
    tracker.finish()
    assert daemon.stream.config == ["{}", '{"late": 1}', '{"later": 2}']


def test_bad_input_is_warned_about_once_per_cause_and_counted_at_the_end(daemon, connect, caplog):
    tracker = connect(daemon)
    for step in range(5):
        tracker.log({"loss": 1.0, "figure": object(), 4: 1.0}, step)
        tracker.log("no mapping")
    tracker.finish()
    assert len(series(daemon)) == 5
    assert tracker.status().refused_values == 15
    messages = texts_of(caplog.records)
    assert len(messages) == 6
    counted = [message for message in messages if "(5 values so far)" in message]
    assert sorted(messages) == sorted([*counted, *(one.replace(" (5 values so far)", "") for one in counted)])
    assert min(counted).startswith("'figure': a object is neither a number nor a text")
    assert any("takes a dict of names and values, not a str; it recorded nothing" in one for one in counted)


@pytest.mark.parametrize("step", [0.5, "7", "soon", float("nan"), 2**70, [1], {}], ids=repr)
def test_values_at_an_invalid_step_are_recorded_at_the_automatic_one_with_one_warning(
    daemon, connect, caplog, step
):
    tracker = connect(daemon)
    tracker.log({"loss": 1.0}, 7)
    for value in (2.0, 3.0):
        tracker.log({"loss": value}, step=step)
    tracker.log_table("t", ["a"], [[1]], step=step)
    tracker.finish()
    assert series(daemon) == [(7, 1.0), (8, 2.0), (9, 3.0)]
    assert [(item.step, item.row) for item in daemon.stream.items] == [(9, 2)]
    assert tracker.status().refused_values == 0
    (message,) = [record.getMessage() for record in caplog.records if record.name == "tracker_client"]
    assert repr(step)[:40] in message


@pytest.mark.parametrize("step", [np.int32(3), np.float32(3.0), np.array(3), 3.0, Fraction(3)], ids=repr)
def test_a_step_may_be_any_whole_number(daemon, connect, step):
    tracker = connect(daemon)
    tracker.log({"loss": 1.0}, step=step)
    tracker.log({"loss": 2.0, "step": step})
    tracker.finish()
    assert series(daemon) == [(3, 1.0), (3, 2.0)]


def test_commit_none_is_true_and_a_row_of_calls_has_one_number(daemon, connect):
    tracker = connect(daemon)
    tracker.log({"loss": 1.0}, commit=None)
    tracker.log({"loss": 2.0}, commit=None)
    tracker.log({"lr": 0.1}, step=5, commit=False)
    tracker.log({"lr": 0.2}, step=5, commit=False)
    tracker.log({"loss": 3.0}, step=5, commit=None)
    tracker.log({"note": "x"}, step=5)
    tracker.finish()
    assert daemon.stream.rows == {
        0: (0, {"loss": 1.0}),
        1: (1, {"loss": 2.0}),
        2: (5, {"lr": 0.1}),
        3: (5, {"lr": 0.2, "loss": 3.0, "note": "x"}),
    }


TEXTS = st.sampled_from(["", "a", "é", "\ud800", "\0", "x" * 600])
ODD = st.one_of(
    st.none(),
    TEXTS,
    st.integers(),
    st.floats(),
    st.binary(max_size=4),
    st.lists(st.none(), max_size=2),
    st.booleans(),
)


@given(
    metrics=ODD | st.dictionaries(ODD.filter(lambda key: not isinstance(key, list)), ODD),
    step=ODD,
    commit=ODD,
)
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=150)
def test_log_never_raises(shared_tracker, metrics, step, commit):
    assert shared_tracker.log(metrics, step, commit) is None
    assert shared_tracker.log_config(metrics) is None
    assert shared_tracker.status().state in {"connecting", "connected"}


@pytest.fixture
def shared_tracker(daemon, connect, caplog):
    caplog.set_level(logging.CRITICAL)
    tracker = connect(daemon)
    yield tracker
    tracker.log({"loss": 1.0}, 77)
    tracker.finish()
    assert (77, 1.0) in series(daemon)  # and the sender survived all of it


def test_many_threads_may_log_and_lose_nothing(daemon, connect):
    tracker = connect(daemon)

    def work(thread):
        for step in range(2_000):
            tracker.log({f"loss/{thread}": float(step)}, step)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    tracker.finish()
    for number in range(4):
        assert series(daemon, f"loss/{number}") == [(step, float(step)) for step in range(2_000)]


# ---- broken connections --------------------------------------------------------------------------


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("at", [1, 2, 3, 5])
def test_a_broken_stream_is_resumed_and_every_value_arrives_once(make_daemon, connect, stored, at):
    daemon = make_daemon(break_at=(at, stored), flush_interval_ms=5)
    tracker = connect(daemon)
    for step in range(5):
        tracker.log({"loss": float(step), f"new/{step}": 1.0}, step)
        wait_until(lambda want=step + 1: len(series(daemon)) == want)
    tracker.finish()
    assert series(daemon) == [(step, float(step)) for step in range(5)]
    assert [len(series(daemon, f"new/{step}")) for step in range(5)] == [1] * 5
    assert len(daemon.hellos) == 2
    assert tracker.status().dropped_points == 0


def test_a_daemon_that_is_restarted_is_found_again(make_daemon, connect, tmp_path):
    path = tmp_path / "endpoint.json"
    daemon = make_daemon()
    path.write_text(json.dumps({"endpoint": daemon.endpoint, "token": TOKEN}))
    tracker = connect(daemon, endpoint=str(path), token=None)
    tracker.log({"loss": 0.0}, 0)
    wait_until(lambda: series(daemon) == [(0, 0.0)])
    daemon.stop()
    for step in range(1, 100):
        tracker.log({"loss": float(step)}, step)
    daemon.start()
    path.write_text(json.dumps({"endpoint": daemon.endpoint, "token": TOKEN}))
    tracker.finish()
    assert series(daemon) == [(step, float(step)) for step in range(100)]
    assert tracker.status().connections == 2


def test_what_does_not_fit_is_dropped_oldest_first_declared_and_counted(make_daemon, connect):
    daemon = make_daemon()
    tracker = connect(daemon, buffer_bytes=1024 * 1024)
    wait_until(lambda: tracker.status().connections == 1)
    daemon.stop()
    rows = 0
    while tracker.status().dropped_points < 20_000:
        for _ in range(2_000):
            tracker.log({f"m{key}": float(rows) for key in range(20)}, rows)
            rows += 1
        status = tracker.status()
        assert status.unacknowledged_bytes <= 1024 * 1024
    port = daemon.port
    daemon.start(f"127.0.0.1:{port}")
    tracker.finish()
    arrived, dropped = series(daemon, "m3"), tracker.status().dropped_points
    assert len(daemon.points) + dropped == rows * 20
    assert arrived[-1] == (rows - 1, float(rows - 1))
    assert [step for step, _ in arrived] == sorted({step for step, _ in arrived})
    gaps = sum(points for _, _, points in daemon.stream.gaps)
    last = daemon.stream.bodies[max(daemon.stream.bodies)]
    assert gaps + last.dropped_points == dropped


def test_drops_that_had_arrived_after_all_are_forgiven(make_daemon, connect):
    daemon = make_daemon(flush_interval_ms=5)
    daemon.acknowledging.clear()
    tracker = connect(daemon, buffer_bytes=1024 * 1024)
    steps = itertools.count()

    def log(rows):
        for step in itertools.islice(steps, rows):
            tracker.log({"loss": 1.0}, step)
        wait_until(lambda: not tracker.status().buffered_points)

    for _ in range(5):
        log(1_000)
    wait_until(lambda: len(series(daemon)) == 5_000)
    assert tracker.status().unacknowledged_points == 5_000
    daemon.stop()
    wait_until(lambda: tracker.status().state == "disconnected")
    while not tracker.status().dropped_points:
        log(500)
    assert tracker.status().dropped_points <= 5_000
    daemon.acknowledging.set()
    daemon.start(f"127.0.0.1:{daemon.port}")
    tracker.finish()
    assert tracker.status().dropped_points == 0
    assert daemon.stream.gaps == []
    assert len(series(daemon)) == next(steps)


def test_an_idle_rank_says_that_all_it_logged_is_sent(daemon, connect):
    tracker = connect(daemon)
    tracker.log({"loss": 1.0})
    wait_until(lambda: daemon.points and len(daemon.heartbeats) > 3)
    assert daemon.heartbeats[-1] == daemon.stream.next_sequence - 1
    tracker.log({"loss": 1.0}, commit=False)
    count = len(daemon.heartbeats)
    wait_until(lambda: len(daemon.heartbeats) > count + 2)
    assert daemon.heartbeats[-1] == daemon.stream.next_sequence  # a row is pending: not all is sent
    flushed = [body.flushed for body in daemon.stream.bodies.values() if body.blocks]
    assert flushed == [True]
    tracker.finish()


# ---- refusals ------------------------------------------------------------------------------------


def test_a_refusal_is_warned_about_once_with_the_daemons_words(make_daemon, connect, caplog, monkeypatch):
    monkeypatch.setattr(limits, "RECONNECT_BACKOFF_MAX_S", 0.02)
    refusal = (grpc.StatusCode.ALREADY_EXISTS, "rank 0 is host-b's process 7")
    daemon = make_daemon(refusal=refusal)
    tracker = connect(daemon)
    tracker.log({"loss": 1.0})
    wait_until(lambda: daemon.refused > 3)
    assert [r.getMessage() for r in caplog.records if "host-b" in r.getMessage()] != []
    assert len([r for r in caplog.records if "host-b" in r.getMessage()]) == 1
    daemon.refusal = None
    tracker.finish()
    assert series(daemon) == [(0, 1.0)]


def test_strict_raises_what_the_daemon_says(make_daemon, connect):
    daemon = make_daemon()
    with pytest.raises(DaemonRefused, match="token"):
        connect(daemon, token="wrong", strict=True)
    with pytest.raises(EndpointError):
        connect(daemon, endpoint="127.0.0.1:1", strict=True, handle_timeout=0.2)
    assert connect(daemon, strict=True).status().connections == 1


# ---- the end -------------------------------------------------------------------------------------


def test_finish_twice_is_one_and_later_calls_are_counted_and_warned_about_once(daemon, connect, caplog):
    tracker = connect(daemon)
    tracker.finish(3)
    tracker.finish(0)
    for _ in range(4):
        tracker.log({"loss": 1.0})
    tracker.log_config({})
    assert daemon.stream.finish == 3
    assert tracker.status().calls_after_finish == 5
    assert len([r for r in caplog.records if "after finish" in r.getMessage()]) == 1
    assert daemon.points == []


@pytest.mark.parametrize(
    ("rank", "arguments", "asked"),
    [
        (0, {}, ["files"]),
        (1, {}, []),
        (0, {"wait": "files"}, ["files"]),
        (0, {"wait": "recorded"}, []),
        (1, {"wait": "delivered"}, ["delivered"]),
        (0, {"wait": "nonsense"}, ["files"]),
    ],
)
def test_finish_waits_for_files_on_the_primary_rank_unless_told_otherwise(
    daemon, connect, rank, arguments, asked
):
    tracker = connect(daemon, rank=rank, world_size=2)
    tracker.log({"loss": 1.0})
    tracker.finish(**arguments)
    assert daemon.asked == asked
    assert daemon.stream.finish == 0


NODE = pb.Forwarder(root="root.example:4000", host="node7", state_directory="/node/state")


@pytest.mark.parametrize(
    ("rank", "wait", "asked"),
    [
        (0, "recorded", ["recorded"]),
        (1, "recorded", ["recorded"]),
        (0, "files", ["recorded", "files"]),
        (1, "files", ["recorded"]),
        (1, "delivered", ["recorded", "delivered"]),
    ],
)
def test_behind_a_node_finish_waits_for_the_root_first(daemon, connect, caplog, rank, wait, asked):
    daemon.forwarder = NODE
    tracker = connect(daemon, rank=rank, world_size=2)
    tracker.log({"loss": 1.0})
    tracker.finish(wait=wait)
    assert daemon.asked == asked
    assert not any("finish(" in text for text in texts_of(caplog.records))
    assert tracker.status().state == "finished"


def test_a_root_that_does_not_have_everything_is_named_with_the_place_of_the_values(daemon, connect, caplog):
    daemon.forwarder = NODE
    daemon.root_has_all.clear()
    tracker = connect(daemon)
    tracker.log({"loss": 1.0})
    tracker.finish(wait="recorded", timeout=0.5)
    (text,) = texts_of(caplog.records)
    for part in ("root.example:4000", "node7", "/node/state", "tracker-daemon sync /node/state --upstream"):
        assert part in text
    assert tracker.status().state == "unfinished"
    daemon.root_has_all.set()


def test_backends_that_do_not_have_everything_are_no_missing_acknowledgement(daemon, connect, caplog):
    daemon.delivered.clear()
    tracker = connect(daemon)
    tracker.log({"loss": 1.0})
    tracker.finish(wait="delivered", timeout=0.5)
    (text,) = texts_of(caplog.records)
    assert "everything is recorded, but not all backends have it yet" in text
    daemon.delivered.set()


def test_the_rows_that_the_files_lack_are_named_once_and_no_failure(daemon, connect, caplog):
    daemon.missing = "the row of step 3 is not in metrics.csv yet, and waits for rank 1"
    tracker = connect(daemon)
    tracker.log({"loss": 1.0})
    tracker.finish()
    assert texts_of(caplog.records) == [f"finish(): {daemon.missing}"]
    assert tracker.status().state == "finished"


def test_a_daemon_that_never_says_so_is_not_waited_for_until_the_timeout(
    daemon, connect, caplog, monkeypatch
):
    monkeypatch.setattr(limits, "FINISH_FILES_WAIT_S", 0.05)
    monkeypatch.setattr("tracker_client.sending.finishing.ANSWER_GRACE_S", 0.05)
    daemon.delivered.clear()
    tracker = connect(daemon)
    tracker.log({"loss": 1.0})
    tracker.finish()
    daemon.delivered.set()
    assert "has not said" in caplog.text
    assert tracker.status().state == "finished"


def test_finish_waits_for_delivery_when_asked_to(daemon, connect):
    daemon.delivered.clear()
    tracker = connect(daemon)
    tracker.log({"loss": 1.0})
    done = threading.Event()

    def finish():
        tracker.finish(wait="delivered")
        done.set()

    threading.Thread(target=finish).start()
    assert daemon.delivery_asked.wait(10)
    assert daemon.stream.finish == 0
    assert not done.is_set()
    daemon.delivered.set()
    assert done.wait(10)
    assert tracker.status().state == "finished"


def test_finish_gives_up_at_its_timeout_and_says_what_is_not_acknowledged(make_daemon, connect, caplog):
    daemon = make_daemon()
    daemon.acknowledging.clear()
    tracker = connect(daemon)
    tracker.log({"a": 1.0, "b": 2.0, "c": 3.0})
    wait_until(lambda: len(daemon.points) == 3)
    tracker.finish(timeout=0.2)
    assert "3 values are not acknowledged" in caplog.text
    assert tracker.status().state == "unfinished"
    gone = connect(daemon, endpoint="127.0.0.1:1")
    gone.log({"a": 1.0, "b": 1.0})
    gone.finish(timeout=0.1)
    assert "2 values are not acknowledged" in caplog.text


def test_a_class_that_waits_for_records_at_the_timeout_closes_with_the_runs_code_in_overtime(
    make_daemon, connect, caplog
):
    codes = []

    class Kept(TrackerBackend):
        def log(self, metrics, step=None, commit=True):
            """Nothing is delivered in this test."""

        def log_config(self, config):
            """Nothing is delivered in this test."""

        def finish(self):
            codes.append(None)

        def finish_with(self, exit_code):
            codes.append(exit_code)

    register_backend("kept-in-overtime", Kept)
    daemon = make_daemon(script_backends=("kept-in-overtime",))
    tracker = connect(daemon, backends="csv,kept-in-overtime")
    tracker.log({"loss": 1.0})
    tracker.finish(4, timeout=0.3)
    assert codes == [4]
    assert daemon.stream.finish == 4
    status = tracker.status()
    assert (status.state, status.problem) == ("unfinished", "not all is given to kept-in-overtime")
    assert "not all is given to kept-in-overtime" in caplog.text


@pytest.mark.parametrize(
    ("error", "code"),
    [(None, 0), (ValueError, 1), (KeyboardInterrupt, 130), (SystemExit(0), 0), (SystemExit(4), 4)],
)
def test_the_context_manager_finishes_with_the_exceptions_state(daemon, connect, error, code):
    with contextlib.suppress(ValueError, KeyboardInterrupt, SystemExit), connect(daemon) as tracker:
        assert isinstance(tracker, Tracker)
        if error is not None:
            raise error
    assert daemon.stream.finish == code


def run_script(daemon, body, *, timeout=60):
    script = textwrap.dedent(body)
    paths = os.pathsep.join(path for path in sys.path if path)
    environ = {**os.environ, "TRACKER_ENDPOINT": daemon.endpoint, "TRACKER_TOKEN": TOKEN, "PYTHONPATH": paths}
    return subprocess.run(
        [sys.executable, "-c", script],
        env=environ,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )


@pytest.mark.parametrize(
    ("end", "code"), [("", None), ("raise ValueError('lost')", 1), ("raise SystemExit(0)", None)]
)
def test_a_script_that_never_finishes_is_ended_at_its_exit_with_its_state_as_far_as_known(daemon, end, code):
    script = f"""
        from tracker_client import setup_tracker
        tracker = setup_tracker("script")
        for step in range(100):
            tracker.log({{"loss": 1.0}}, step)
        {end}
    """
    run_script(daemon, script)
    assert len(series(daemon)) == 100
    assert (daemon.stream.finish, daemon.stream.exiting) == (code, True)


def test_the_client_imports_no_array_library_and_no_backend(daemon):
    script = """
        import sys
        from tracker_client import setup_tracker
        with setup_tracker("script") as tracker:
            tracker.log({"loss": 1.0, "text": "t"})
        foreign = {"numpy", "torch", "jax", "wandb", "mlflow", "msgspec", "pydantic", "tracker_daemon"}
        print(sorted(foreign & set(sys.modules)))
    """
    result = run_script(daemon, script)
    assert (result.stdout.strip(), result.stderr) == ("[]", "")


# ---- fork ----------------------------------------------------------------------------------------


def test_a_fork_prints_nothing_of_grpc_and_leaves_the_environment_as_it_is(daemon):
    script = """
        import os, warnings
        warnings.simplefilter("ignore")  # Python 3.12 warns of every fork beside threads
        before = dict(os.environ)
        from tracker_client import setup_tracker
        tracker = setup_tracker("fork")
        tracker.run_id
        for _ in range(20):
            if os.fork() == 0:
                os._exit(0)
            os.wait()
        tracker.finish()
        print({name for name in os.environ if name.startswith("GRPC")} - set(before))
    """
    done = run_script(daemon, script)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def test_a_forked_child_is_inert_and_ends_by_itself(daemon):
    script = """
        import os, sys, time, warnings
        warnings.simplefilter("ignore")
        from tracker_client import setup_tracker
        tracker = setup_tracker("fork")
        tracker.log({"parent": 1.0})
        assert tracker.run_id == "run-1"
        children = []
        for how in ("exit", "hard", "raise"):
            pid = os.fork()
            if pid == 0:
                for _ in range(1000):
                    tracker.log({"child": 1.0})
                tracker.log_config({"child": 1})
                tracker.finish(9)
                assert tracker.status().state == "disabled"
                tracker = None
                if how == "hard":
                    os._exit(0)
                if how == "raise":
                    raise ValueError("expected")
                sys.exit(0)
            children.append(pid)
        deadline = time.monotonic() + 30
        codes = []
        while len(codes) < 3 and time.monotonic() < deadline:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid:
                codes.append(os.waitstatus_to_exitcode(status))
            time.sleep(0.01)
        print(sorted(codes))
        print(tracker.status().calls_elsewhere)
        tracker.log({"parent": 2.0})
        tracker.finish()
    """
    result = run_script(daemon, script)
    assert result.stdout.split("\n") == ["[0, 0, 1]", "3003", ""], result.stderr
    assert result.stderr.count("records nothing: its tracker is a copy") == 1
    assert series(daemon, "parent") == [(0, 1.0), (1, 2.0)]
    assert series(daemon, "child") == []
    assert daemon.stream.config == []
    assert daemon.stream.finish == 0


def test_a_definition_precedes_the_rows_that_are_logged_after_it_and_is_sent_once(daemon, connect, caplog):
    tracker = connect(daemon)
    tracker.log({"loss": 1.0})
    epoch = tracker.define_metric("epoch")
    for step in range(3):
        tracker.define_metric("val/*", step_metric=epoch, summary="max")
        tracker.log({"val/loss": 1.0, "epoch": step})
    assert tracker.define_metric("val/*", summary="first") is None
    assert tracker.define_metric("", step_metric="epoch") is None
    tracker.finish()
    bodies = list(daemon.stream.bodies.values())
    (at,) = (i for i, body in enumerate(bodies) if body.definitions)
    (definition,) = bodies[at].definitions
    assert (definition.glob, definition.step_metric, definition.summary) == ("val/*", "epoch", "max")
    assert not any("val/loss" in body.names for body in bodies[:at])
    assert len([text for text in caplog.messages if "define_metric(" in text]) == 2


def test_the_compatible_import_asks_for_its_names_in_mlflow_unless_the_script_does(daemon):
    for named, expected in (({}, "local"), ({"mlflow_own_name": "plain"}, "plain")):
        ezpz_compat.setup_tracker("p", endpoint=daemon.endpoint, token=TOKEN, **named).finish()
        options = json.loads(daemon.hellos[-1].options.backend_options)
        assert options["mlflow"]["own_name"] == expected

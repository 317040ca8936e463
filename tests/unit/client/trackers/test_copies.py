"""Copies of a tracker: the same tracker in its process, and inert in every other one."""

import copy
import io
import os
import pickle
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.client_daemon import TOKEN
from tracker_client import CSVBackend, NullTracker, Tracker
from tracker_client.trackers.calls_elsewhere import COUNT_MAX, CallsElsewhere


def unpickled(value):
    return pickle.loads(pickle.dumps(value))


@pytest.fixture(params=["remote", "in process", "finished"])
def tracker(request, daemon, connect, tmp_path):
    if request.param == "in process":
        pytest.importorskip("structlog")  # the daemon's packages
        return Tracker([CSVBackend(tmp_path)])
    tracker = connect(daemon)
    if request.param == "finished":
        tracker.finish()
    return tracker


def test_a_copy_in_its_own_process_is_the_tracker_itself(tracker):
    assert copy.copy(tracker) is copy.deepcopy(tracker) is unpickled(tracker) is tracker
    held = {"log": tracker.log, "tracker": [tracker]}
    for copied in (copy.deepcopy(held), unpickled(held)):
        assert copied["tracker"][0] is copied["log"].__self__ is tracker


def test_a_null_tracker_can_be_copied():
    assert isinstance(unpickled(NullTracker()), NullTracker)
    assert isinstance(copy.deepcopy(NullTracker()), NullTracker)


def test_a_model_that_holds_its_tracker_is_averaged_copied_and_saved(daemon, connect):
    torch = pytest.importorskip("torch")
    from torch.optim.swa_utils import AveragedModel

    tracker = connect(daemon)
    model = torch.nn.Linear(2, 1)
    model.tracker, model.log = tracker, tracker.log
    tracker.watch(model, log="all", log_freq=1)
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    copies = (AveragedModel(model).module, copy.deepcopy(model), torch.load(file, weights_only=False))
    for copied in copies:
        assert copied.tracker is copied.log.__self__ is tracker
        copied.log({"loss": 1.0})
    tracker.finish()
    assert len([point for point in daemon.points if point.name == "loss"]) == len(copies)


def test_a_handle_of_a_run_is_copied_and_pickled_with_its_tracker(make_daemon, connect, tmp_path):
    tracker = connect(make_daemon(backends=("wandb", "mlflow", "csv")))
    handles = [
        tracker.wandb_run,
        tracker.mlflow_run,
        tracker.get_backend("csv"),
        tracker.get_backend("mlflow"),
    ]
    assert None not in handles
    for copied in (copy.copy(handles), copy.deepcopy(handles), unpickled(handles)):
        assert all(one is other for one, other in zip(copied, handles, strict=True))
    path = tmp_path / "handles.pickle"
    path.write_bytes(pickle.dumps([tracker, *handles]))
    script = "import pickle, sys; print(pickle.load(open(sys.argv[1], 'rb'))[1:])"
    command = [sys.executable, "-c", script, str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout == "[None, None, None, None]\n"


ELSEWHERE = """
    import logging, pickle, sys
    logging.basicConfig(format="%(message)s")
    first, second = (pickle.load(open(sys.argv[1], "rb")) for _ in range(2))
    assert first is second
    for _ in range(5):
        first.log({"x": 1.0})
    first.log_config({"a": 1})
    first.log_table("t", ["a"], [[1]])
    with first as entered:
        assert entered is first
    first.watch(None)
    first.finish(3, wait="delivered")
    assert (first.run_id, first.attempt, first.wandb_run, first.get_backend("csv")) == (None,) * 4
    print(first.status().state, first.status().calls_elsewhere)
"""


def test_a_copy_in_another_process_is_inert_and_warns_once(daemon, connect, tmp_path, caplog):
    tracker = connect(daemon)
    path = tmp_path / "tracker.pickle"
    path.write_bytes(pickle.dumps(tracker))
    command = [sys.executable, "-c", textwrap.dedent(ELSEWHERE), str(path)]
    first, second = (subprocess.run(command, check=True, capture_output=True, text=True) for _ in range(2))
    assert (first.stdout.split(), second.stdout.split()) == (["disabled", "8"], ["disabled", "16"])
    assert "records nothing: its tracker is a copy" in first.stderr
    assert len(first.stderr.splitlines()) == 1
    assert second.stderr == "", "the first process has warned"
    assert tracker.status().calls_elsewhere == 16
    tracker.finish()
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[1] == "24"
    assert (daemon.points, daemon.stream.finish) == ([], 0)
    assert "records nothing" not in caplog.text


def test_a_copy_outlives_its_trackers_process(tmp_path, daemon):
    path = tmp_path / "tracker.pickle"
    script = f"""
        import pickle
        from tracker_client import setup_tracker
        tracker = setup_tracker("p", endpoint={daemon.endpoint!r}, token={TOKEN!r})
        pickle.dump(tracker, open({str(path)!r}, "wb"))
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=True)
    command = [sys.executable, "-c", textwrap.dedent(ELSEWHERE), str(path)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["disabled", "8"]


# ---- the count -----------------------------------------------------------------------------------


def test_processes_that_count_at_once_lose_no_call_and_one_of_them_reports(tmp_path):
    calls = CallsElsewhere()
    reports = os.memfd_create("reports")
    children = []
    for _ in range(4):
        if (pid := os.fork()) == 0:
            for _ in range(1_000):
                if calls.add():
                    os.write(reports, b"x")
            os._exit(0)
        children.append(pid)
    assert [os.waitpid(pid, 0)[1] for pid in children] == [0] * 4
    assert calls.count == 4_000
    assert os.fstat(reports).st_size == 1
    os.close(reports)


def test_the_count_has_a_bound_in_memory():
    calls = CallsElsewhere()
    os.truncate(calls.address.partition(" ")[0], COUNT_MAX - 1)
    assert [calls.add() for _ in range(3)] == [False] * 3
    assert calls.count == COUNT_MAX


def test_an_address_is_of_that_count_alone():
    calls = CallsElsewhere()
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(CallsElsewhere(calls.address).add).result()
    assert calls.count == 1
    path = calls.address.partition(" ")[0]
    for address in (f"{path} another", "/proc/0/fd/0 x", "", "/dev/null x"):
        other = CallsElsewhere(address)
        assert other.add()
    assert calls.count == 1

"""A backend in a child process: its results arrive, and its failures affect nothing else."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import ClassVar

import pytest

from tests.support.waiting import wait_until
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.child.process import ChildBackend
from tracker_daemon.delivery.pump import Pump
from tracker_daemon.errors import BackendRefused, BackendUnavailable, PoisonEntry
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry

BACKEND = '''
import json, os, subprocess, sys, time
from pathlib import Path
from tracker_daemon.backends.base import Backend
from tracker_daemon.errors import BackendRefused, BackendUnavailable, PoisonEntry

class Scripted(Backend):
    """Does what its entries say, and appends each to a file."""
    name = "scripted"

    def open(self, run, state):
        self.run, self.count = run, int(state or b"0")
        self.file = Path(run.outdir, "delivered.jsonl")
        kept = self.file.read_text().splitlines(keepends=True)[: self.count] if self.file.exists() else []
        self.file.write_text("".join(kept))
        print("on standard output", flush=True)
        if run.options.get("describe"):
            self.note(vars_of(run))

    def deliver(self, entries, commit):
        for entry in entries:
            asked = json.loads(entry.payload)
            for action, argument in asked.items():
                self.act(action, argument, commit)
            self.note({"number": entry.number, **asked})
            self.count += 1
        return str(self.count).encode()

    def act(self, action, argument, commit):
        secret = os.environ.get("WANDB_API_KEY")
        if action == "raise":
            raise {"refused": BackendRefused, "unavailable": BackendUnavailable, "poison": PoisonEntry,
                   "other": ValueError}[argument](f"{argument} for a reason: {secret}")
        if action == "commit":
            for _ in range(argument):
                time.sleep(0.3)
                commit(str(self.count).encode())
        if action == "hang":
            time.sleep(3600)
        if action == "exit":
            os._exit(argument)
        if action == "start":
            child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(3600)"])
            self.note({"grandchild": child.pid})

    def note(self, line):
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\\n")

    def close(self):
        Path(self.run.outdir, "closed").touch()

    def location(self):
        return f"file:{self.count}"

def vars_of(run):
    return {"run_id": run.run_id, "project": run.project, "name": run.name, "epoch": run.epoch, "attempt":
            run.attempt, "options": dict(run.options), "environment": dict(run.environment),
            "variables": dict(os.environ), "path": sys.path}
'''


class Scripted(ChildBackend):
    name = "scripted"
    target = "scripted_backend:Scripted"


@pytest.fixture
def run(tmp_path):
    return RunDescription("run-a", "project", "name", tmp_path / "out")


@pytest.fixture
def environment(tmp_path):
    tmp_path.joinpath("modules").mkdir()
    tmp_path.joinpath("modules", "scripted_backend.py").write_text(BACKEND)
    search_path = os.pathsep.join([str(tmp_path / "modules"), os.environ.get("PYTHONPATH", "")])
    return {**os.environ, "PYTHONPATH": search_path.rstrip(os.pathsep)}


@pytest.fixture
def make(environment):
    made = []

    def make(**deadlines):
        made.append(Scripted(environment=environment, **deadlines))
        return made[-1]

    yield make
    for backend in made:
        backend.close()


def entries_of(*requests, first=1):
    return [
        OutboxEntry(number, EntryKind.CONFIG, json.dumps(request).encode())
        for number, request in enumerate(requests, first)
    ]


def delivered(run):
    return [json.loads(line) for line in Path(run.outdir, "delivered.jsonl").read_text().splitlines()]


def never(state):
    raise AssertionError(f"nothing was to be committed on the way, and {state} was")


def is_alive(pid):
    """Whether the process runs; one that has ended and is not yet reaped does not."""
    try:
        return Path("/proc", str(pid), "stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def await_end(pid):
    wait_until(lambda: not is_alive(pid), f"process {pid} to end")


def test_the_run_the_entries_and_the_state_cross_the_pipe_whole(make, tmp_path):
    run = RunDescription(
        "run-a",
        "p",
        "n",
        tmp_path / "out",
        3,
        2,
        {"describe": True, "tags": ["x"], "n": {"k": 1.5}},
        {"user": "u"},
    )
    backend = make()
    backend.open(run, None)
    large = "x" * 3_000_000
    assert backend.deliver(entries_of({"a": 1}, {"b": large}), never) == b"2"
    assert backend.location() == "file:2"
    described, first, second = delivered(run)
    assert first == {"number": 1, "a": 1}
    assert second == {"number": 2, "b": large}
    wanted = {"run_id": "run-a", "project": "p", "name": "n", "epoch": 3, "attempt": 2}
    assert {key: described[key] for key in wanted} == wanted
    assert described["options"] == run.options
    assert described["environment"] == {"user": "u"}


def test_a_commit_on_the_way_returns_before_the_delivery_continues(make, run):
    backend, committed = make(), []
    backend.open(run, None)
    state = backend.deliver(entries_of({"a": 1}, {"commit": 1}), committed.append)
    assert (committed, state) == ([b"1"], b"2")


def test_a_commit_that_fails_ends_the_child_and_raises_to_the_caller(make, run):
    backend = make()
    backend.open(run, None)
    pid = backend.pid

    def fail(state):
        raise RuntimeError("the journal stopped")

    with pytest.raises(RuntimeError, match="journal stopped"):
        backend.deliver(entries_of({"commit": 1}), fail)
    await_end(pid)
    assert delivered(run) == []


@pytest.mark.parametrize(
    ("kind", "error"),
    [("refused", BackendRefused), ("unavailable", BackendUnavailable), ("poison", PoisonEntry)],
)
def test_errors_arrive_with_their_kind_and_text_and_the_child_lives_on(make, run, kind, error):
    backend = make()
    backend.open(run, None)
    with pytest.raises(error, match=f"{kind} for a reason"):
        backend.deliver(entries_of({"raise": kind}), never)
    assert backend.deliver(entries_of({"a": 1}), never) == b"1"


def test_what_a_backend_should_not_raise_is_named_and_ends_its_process(make, run):
    backend = make()
    backend.open(run, None)
    pid = backend.pid
    with pytest.raises(BackendUnavailable, match="ValueError: other for a reason"):
        backend.deliver(entries_of({"raise": "other"}), never)
    await_end(pid)


def test_a_secret_in_an_error_is_masked(run, environment):
    backend = Scripted(environment={**environment, "WANDB_API_KEY": "very-secret-key"})
    backend.open(run, None)
    with pytest.raises(BackendRefused) as raised:
        backend.deliver(entries_of({"raise": "refused"}), never)
    backend.close()
    assert str(raised.value) == "refused for a reason: ****"


def test_a_class_that_cannot_be_imported_is_refused_by_name(run, environment):
    class Missing(ChildBackend):
        name = "missing"
        target = "no_such_module:Backend"

    backend = Missing(environment=environment)
    with pytest.raises(BackendRefused, match="no_such_module"):
        backend.open(run, None)
    backend.close()


def test_a_child_that_hangs_is_killed_at_its_deadline_with_all_it_started(make, run):
    backend = make(deliver_deadline_s=1.0)
    backend.open(run, None)
    pid = backend.pid
    with pytest.raises(BackendUnavailable, match=f"pid {pid}.*sent nothing for 1 s"):
        backend.deliver(entries_of({"start": 1, "hang": 1}), never)
    await_end(pid)
    await_end(delivered(run)[0]["grandchild"])
    backend.open(run, None)
    assert backend.pid != pid
    assert backend.deliver(entries_of({"a": 1}), never) == b"1"


def test_a_slow_delivery_with_heartbeats_is_not_killed(make, run):
    backend = make(deliver_deadline_s=1.0)
    backend.open(run, None)
    assert backend.deliver(entries_of({"commit": 6}), lambda state: None) == b"1"


def test_a_child_that_reads_nothing_more_cannot_block_the_caller(make, run):
    backend = make(deliver_deadline_s=1.0)
    backend.open(run, None)
    os.kill(backend.pid, signal.SIGSTOP)
    with pytest.raises(BackendUnavailable, match="sent nothing"):
        backend.deliver(entries_of({"a": "x" * 3_000_000}), never)


@pytest.mark.parametrize(("exit_code", "outcome"), [(0, "status 0"), (3, "status 3")])
def test_a_child_that_ends_by_itself_is_noticed_with_its_status(make, run, exit_code, outcome):
    backend = make()
    backend.open(run, None)
    with pytest.raises(BackendUnavailable, match=outcome):
        backend.deliver(entries_of({"exit": exit_code}), never)
    backend.open(run, None)
    assert backend.deliver(entries_of({"a": 1}), never) == b"1"


def test_a_killed_child_is_noticed_and_its_successor_continues_from_the_committed_state(make, run):
    backend = make()
    backend.open(run, None)
    state = backend.deliver(entries_of({"a": 1}), never)
    backend.deliver(entries_of({"a": 2}, first=2), never)  # stored, and never committed
    os.kill(backend.pid, signal.SIGKILL)
    with pytest.raises(BackendUnavailable, match="SIGKILL"):
        backend.deliver(entries_of({"a": 3}, first=3), never)
    backend.open(run, state)
    backend.deliver(entries_of({"a": 2}, {"a": 3}, first=2), never)
    assert [line["number"] for line in delivered(run)] == [1, 2, 3]


def test_closing_ends_the_child_in_good_order_and_leaves_no_lock(make, run):
    backend = make()
    backend.open(run, None)
    pid = backend.pid
    (lock,) = Path(run.outdir).glob(".tracker-scripted-*.lock")
    backend.close()
    assert Path(run.outdir, "closed").exists()
    assert not lock.exists()
    await_end(pid)
    assert backend.pid is None
    with pytest.raises(BackendUnavailable, match="not open"):
        backend.deliver(entries_of({"a": 1}), never)


def test_a_scheduler_that_signals_every_process_of_the_job_does_not_end_the_child(make, run):
    backend = make()
    backend.open(run, None)
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        os.kill(backend.pid, number)
    assert backend.deliver(entries_of({"a": 1}), never) == b"1"


def test_a_file_in_the_working_directory_is_never_imported(make, run, environment, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    tmp_path.joinpath("json.py").write_text("raise RuntimeError('imported the wrong file')")
    backend = make()
    backend.open(RunDescription("r", "p", "n", run.outdir, options={"describe": True}), None)
    assert str(tmp_path) not in delivered(run)[0]["path"]


def test_only_its_own_credentials_are_in_the_environment_of_a_child(run, environment, monkeypatch):
    class Mine(Scripted):
        name = "mlflow"
        settings: ClassVar = {"MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1", "MLFLOW_HTTP_REQUEST_TIMEOUT": "30"}

    secrets = {"WANDB_API_KEY": "w" * 40, "MLFLOW_TRACKING_TOKEN": "mine", "TRACKER_TOKEN": "the-daemon's"}
    for name, value in {**environment, **secrets, "MLFLOW_HTTP_REQUEST_TIMEOUT": "7"}.items():
        monkeypatch.setenv(name, value)
    backend = Mine()
    backend.open(RunDescription("r", "p", "n", run.outdir, options={"describe": True}), None)
    backend.close()
    variables = delivered(run)[0]["variables"]
    assert "WANDB_API_KEY" not in variables
    assert "TRACKER_TOKEN" not in variables
    assert variables["MLFLOW_TRACKING_TOKEN"] == "mine"
    assert variables["MLFLOW_HTTP_REQUEST_MAX_RETRIES"] == "1"
    assert variables["MLFLOW_HTTP_REQUEST_TIMEOUT"] == "7"


HOLDER = """
import sys, time
from pathlib import Path
from tracker_daemon.files.run_lock import RunLock
lock = RunLock(Path(sys.argv[1]), "scripted", "run-a", 5.0)
print("locked", flush=True)
sys.stdin.readline()
"""


def test_a_successor_waits_for_the_lock_of_its_predecessor(make, run, environment):
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(run.outdir)],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert holder.stdout.readline() == "locked\n"
    backend = make()
    opened = threading.Event()

    def deliver():
        backend.open(run, None)
        opened.set()
        backend.deliver(entries_of({"a": 1}), never)
        backend.close()

    thread = threading.Thread(target=deliver)
    thread.start()
    assert not opened.wait(1.5)
    holder.communicate("\n")
    thread.join(30)
    assert opened.is_set()
    assert delivered(run) == [{"number": 1, "a": 1}]


PARENT = """
import sys
from pathlib import Path
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.child.process import ChildBackend
class Scripted(ChildBackend):
    name, target = "scripted", "scripted_backend:Scripted"
import os, json
from tracker_daemon.outbox.entries import EntryKind, OutboxEntry
backend = Scripted(environment=dict(os.environ))
backend.open(RunDescription("run-a", "p", "n", Path(sys.argv[1])), None)
print(backend.pid, flush=True)
if sys.argv[2] == "hang":
    backend.deliver([OutboxEntry(1, EntryKind.CONFIG, json.dumps({"hang": 1}).encode())], print)
sys.stdin.readline()
"""


@pytest.mark.parametrize("busy", ["idle", "hang"])
def test_the_child_dies_with_its_parent(run, environment, busy):
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(run.outdir), busy],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    child = int(parent.stdout.readline())
    assert is_alive(child)
    parent.kill()
    parent.communicate()
    await_end(child)


def test_a_pump_delivers_each_entry_once_through_children_that_are_killed_and_hang(make, run):
    entries = entries_of(*({"a": number} for number in range(40)))
    journal = {"position": 0, "state": b""}

    def read(after):
        return entries[after : after + 4]

    def commit(position, state, delivered_records, set_aside):
        journal.update(position=position, state=state)

    backend = make(deliver_deadline_s=5.0)
    killed = set()

    def kill_each_tenth(position, *rest):
        commit(position, *rest)
        if position % 8 == 0 and position not in killed:
            killed.add(position)
            os.kill(backend.pid, signal.SIGKILL)

    pump = Pump(backend, run, read=read, commit=kill_each_tenth)
    pump.start()
    pump.notify()
    deadline = time.monotonic() + 60
    assert pump.drain(deadline)
    pump.stop(30)
    assert [line["number"] for line in delivered(run)] == list(range(1, 41))
    assert len(killed) == 5
    assert journal["position"] == 40

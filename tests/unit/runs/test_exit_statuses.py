"""The exit statuses of ranks whose scripts ended without finish()."""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass, field
from types import SimpleNamespace

import pytest

from tests.support.ingest.messages import hello
from tracker_daemon.aggregation.values.batch import Exiting
from tracker_daemon.journal.event import EventKind
from tracker_daemon.processes.host_watch import HostWatch, Place
from tracker_daemon.recording.events import ExitStatusEvent, _exit_status
from tracker_daemon.runs.exit_statuses import ExitStatuses
from tracker_daemon.runs.run_endings import RunEndings
from tracker_protocol import limits
from tracker_protocol.host_processes import pid_space, start_ticks
from tracker_protocol.v1 import tracker_pb2 as pb

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this /proc")
SCRIPT = """
import os, sys
from tracker_client.trackers.exit_code import exit_status_file
file = exit_status_file()
print(file.descriptor, file.nonce.hex(), flush=True)
sys.stdin.readline()
{}
"""


@dataclass
class Recorder:
    """Keeps what is submitted."""

    submitted: list[ExitStatusEvent] = field(default_factory=list)

    def submit(self, submission):
        self.submitted.append(_exit_status(submission.payload))


class Desk:
    """Exit statuses with a clock of their own."""

    def __init__(self, *, has_command=False):
        self.now = 0.0
        self.recorder = Recorder()
        self.statuses = ExitStatuses(
            self.recorder, HostWatch(), has_command=has_command, clock=lambda: self.now
        )

    def after(self, seconds):
        """What has been submitted ``seconds`` later."""
        self.now += seconds
        self.statuses.poll()
        return [event.code for event in self.recorder.submitted]


@pytest.fixture
def rank(door):
    """Starts a script that is exiting; returns the rank's stream, its process, and its end."""
    processes = []

    def start(ending):
        script = [sys.executable, "-c", SCRIPT.format(ending)]
        process = subprocess.Popen(script, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        processes.append(process)
        descriptor, nonce = process.stdout.readline().split()
        stream = door.registry.admit(hello(1, 0)).stream
        stream.pid = process.pid
        place = pb.ProcessPlace(pid_space=pid_space(), start_ticks=start_ticks(process.pid))
        stream.place = Place.of(pb.Process(pid=process.pid, place=place))
        return stream, process, Exiting(int(descriptor), bytes.fromhex(nonce))

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def end(process):
    process.communicate("\n", timeout=60)


@pytest.mark.parametrize(("ending", "code"), [("", 0), ("sys.exit(7)", 7)])
def test_the_status_is_reported_once_the_process_has_ended(rank, ending, code):
    stream, process, exiting = rank(ending)
    desk = Desk()
    desk.statuses.expect(stream, exiting)
    assert desk.after(60.0) == []
    assert not desk.statuses.are_known()
    end(process)
    assert desk.statuses.are_known()
    assert desk.after(0.0) == [code]
    assert desk.after(60.0) == [code]


def test_a_process_that_ends_without_exit_has_no_status_after_some_seconds(rank):
    stream, process, exiting = rank("os._exit(7)")
    desk = Desk()
    desk.statuses.expect(stream, exiting)
    end(process)
    assert desk.after(0.0) == []
    assert desk.after(limits.VANISHED_AFTER_S) == [None]


def test_the_status_is_held_back_while_the_command_may_be_about_to_fail(rank):
    stream, process, exiting = rank("")
    desk = Desk(has_command=True)
    desk.statuses.expect(stream, exiting)
    end(process)
    assert desk.after(0.0) == []
    assert desk.after(limits.COMMAND_END_WAIT_S - 0.1) == []
    assert desk.after(0.1) == [0]


def test_everything_is_reported_as_far_as_it_is_known_when_the_daemon_ends(rank):
    stream, _, exiting = rank("")
    desk = Desk(has_command=True)
    desk.statuses.expect(stream, exiting)
    desk.statuses.settle()
    assert desk.after(0.0) == [None]


@pytest.mark.parametrize(
    "wrong", ["no file", "another nonce", "no such descriptor", "no regular file", "elsewhere"]
)
def test_without_the_right_file_the_status_is_unknown_at_once(rank, wrong):
    stream, _, exiting = rank("")
    if wrong == "no file":
        exiting = Exiting()
    elif wrong == "another nonce":
        exiting = Exiting(exiting.status_fd, b"x" * len(exiting.nonce))
    elif wrong == "no such descriptor":
        exiting = Exiting(900, exiting.nonce)
    elif wrong == "no regular file":
        exiting = Exiting(1, b"")
    else:
        stream.place = None
    desk = Desk()
    desk.statuses.expect(stream, exiting)
    assert desk.after(0.0) == [None]


def test_a_status_that_is_known_is_journalled_before_the_kill_that_ends_the_job(rank, door):
    stream, process, exiting = rank("sys.exit(143)")
    submitted = []
    recorder = SimpleNamespace(submit=lambda one: submitted.append((one.kind, one.payload)))
    endings = RunEndings(door.registry, recorder, has_command=True)
    endings.expect_exit_status(stream, exiting)
    end(process)
    endings.poll([])
    assert submitted == []  # held back: the command may be about to fail
    endings.end_killed([stream.run])
    kinds = [kind for kind, _ in submitted]
    assert kinds.index(EventKind.EXIT_STATUS) < kinds.index(EventKind.LAUNCH_ENDED)
    assert _exit_status(dict(submitted)[EventKind.EXIT_STATUS]).code == 143

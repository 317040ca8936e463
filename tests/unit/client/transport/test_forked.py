"""Calls of a forked process: a helper makes them, and nothing is lost if the helper or the process dies."""

import hashlib
import os
import subprocess
import sys
import textwrap
import threading

import pytest

from tests.support.client_daemon import TOKEN
from tests.support.waiting import wait_until
from tracker_client.endpoints.endpoint import Endpoint
from tracker_client.errors import EndpointError
from tracker_client.transport.channel import CallFailed
from tracker_client.transport.forked.helper import HelperChannel
from tracker_protocol import STATUS_METHOD, STREAM_METHOD
from tracker_protocol.v1 import tracker_pb2 as pb

FORKED = """
    import os, signal, subprocess, sys, time, grpc
    from tracker_client import setup_tracker

    def refuse(*_):
        os._exit(9)

    def helpers():
        command = ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())]
        shown = subprocess.run(command, capture_output=True)
        return [int(line.split()[0]) for line in shown.stdout.decode().splitlines() if "relay" in line]

    parent = setup_tracker("parent")
    parent.log({"parent": 1.0})
    assert parent.run_id
    pid = os.fork()
    if pid:
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        parent.log({"parent": 2.0})
        parent.finish()
        assert parent.status().state == "finished"
        sys.exit(code)
    grpc.insecure_channel = grpc.secure_channel = refuse
    tracker = setup_tracker("child")
    for step in range(500):
        tracker.log({"child": float(step)}, step)
    assert tracker.run_id
"""


def run_forked(daemon, body):
    """Run ``body`` in a process that was forked from one with a tracker."""
    environ = {
        **os.environ,
        "TRACKER_ENDPOINT": daemon.endpoint,
        "TRACKER_TOKEN": TOKEN,
        "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
    }
    script = textwrap.dedent(FORKED) + textwrap.dedent(body)
    return subprocess.run(
        [sys.executable, "-c", script], env=environ, capture_output=True, text=True, timeout=60, check=False
    )


def series(daemon, name):
    return [(point.step, point.value) for point in daemon.points if point.name == name]


def channel_to(daemon):
    return HelperChannel(daemon.endpoint, Endpoint((daemon.endpoint,), TOKEN))


def test_a_forked_process_records_rows_and_files_and_never_uses_grpc(daemon, tmp_path):
    path = tmp_path / "model.bin"
    path.write_bytes(os.urandom(4 * 1024 * 1024))
    body = f"""
        tracker.log_artifacts({{"model": {str(path)!r}}})
        assert len(helpers()) == 1
        tracker.finish()
        assert tracker.status().state == "finished"
        until = time.monotonic() + 30  # finish() does not wait for the helper's end for long
        while helpers():
            assert time.monotonic() < until, "the helper lives on"
        os._exit(3)
    """
    done = run_forked(daemon, body)
    assert done.returncode == 3, done.stderr
    assert series(daemon, "child") == [(step, float(step)) for step in range(500)]
    assert [value for _, value in series(daemon, "parent")] == [1.0, 2.0]
    content = path.read_bytes()
    assert daemon.contents[hashlib.sha256(content).digest()] == content


def test_a_helper_that_is_killed_is_started_again_and_nothing_is_lost(daemon):
    body = """
        os.kill(helpers()[0], signal.SIGKILL)
        for step in range(500, 600):
            tracker.log({"child": float(step)}, step)
        tracker.finish()
        os._exit(0 if tracker.status().connections == 2 else 8)
    """
    done = run_forked(daemon, body)
    assert done.returncode == 0, done.stderr
    assert series(daemon, "child") == [(step, float(step)) for step in range(600)]


def test_a_helper_ends_with_its_process_although_a_child_of_that_lives_on(daemon, tmp_path):
    body = f"""
        helper = helpers()[0]
        if os.fork() == 0:
            os.closerange(0, 3)
            while os.path.exists(f"/proc/{{helper}}"):
                time.sleep(0.01)
            open({str(tmp_path / "ended")!r}, "w").close()
            os._exit(0)
        os.kill(os.getpid(), signal.SIGKILL)
    """
    done = run_forked(daemon, body)
    assert done.returncode != 0
    wait_until((tmp_path / "ended").exists, "the helper to end")


def test_what_was_handed_over_reaches_the_daemon_although_the_call_is_not_ended(daemon):
    handed_over, never = threading.Event(), threading.Event()

    def requests():
        hello = pb.Hello(protocol_version=1, stream_id=b"s" * 16)
        yield pb.ClientMessage(hello=hello).SerializeToString()
        for number in range(1_000):
            heartbeat = pb.Heartbeat(flushed_through=number)
            yield pb.ClientMessage(heartbeat=heartbeat).SerializeToString()
        handed_over.set()
        never.wait()

    channel = channel_to(daemon)
    replies = channel.call(STREAM_METHOD, requests(), pb.DaemonMessage.FromString)
    assert next(replies).WhichOneof("message") == "welcome"
    assert handed_over.wait(30)
    channel.close()
    never.set()
    with pytest.raises(CallFailed, match="ended"):
        list(replies)
    wait_until(lambda: daemon.heartbeats == list(range(1_000)), "all heartbeats")


def test_a_failed_call_has_the_daemons_status(daemon):
    endpoint = Endpoint((daemon.endpoint,), "a wrong token")
    channel = HelperChannel(daemon.endpoint, endpoint)
    with pytest.raises(CallFailed) as failed:
        list(channel.call(STREAM_METHOD, iter(()), pb.DaemonMessage.FromString))
    assert (failed.value.code, failed.value.details) == ("UNAUTHENTICATED", "the token is wrong")
    with pytest.raises(CallFailed) as failed:
        list(channel.call(STATUS_METHOD, iter(()), pb.StatusReply.FromString))
    assert failed.value.code == "UNIMPLEMENTED"
    channel.close()
    with pytest.raises(CallFailed):
        list(channel.call(STATUS_METHOD, iter(()), pb.StatusReply.FromString))


def test_a_process_without_an_interpreter_gets_a_sentence(daemon, monkeypatch):
    monkeypatch.setattr(sys, "executable", "")
    with pytest.raises(EndpointError, match="'spawn' method"):
        channel_to(daemon)

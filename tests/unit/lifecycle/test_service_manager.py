"""What the service manager is told, on a real socket."""

import asyncio
import os
import socket

import pytest

from tracker_daemon.errors import JournalError
from tracker_daemon.lifecycle.service_manager import ServiceManager


@pytest.fixture
def told(tmp_path):
    """A service manager's socket: its address, and the next message that came."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(str(tmp_path / "notify"))
        inbox.settimeout(20)
        yield inbox


def environment(inbox, **more):
    return {"NOTIFY_SOCKET": inbox.getsockname(), **more}


def test_readiness_and_the_end_are_told(told):
    manager = ServiceManager.of(environment(told))
    manager.ready()
    assert told.recv(4096) == b"READY=1"
    manager.stopping()
    assert told.recv(4096).splitlines()[0] == b"STOPPING=1"


def test_no_process_of_the_daemon_inherits_the_right_to_speak():
    variables = {"NOTIFY_SOCKET": "/run/notify", "WATCHDOG_USEC": "3000000", "WATCHDOG_PID": str(os.getpid())}
    variables["HOME"] = "/root"
    assert ServiceManager.of(variables).watchdog_s == 3.0
    assert variables == {"HOME": "/root"}


def test_another_process_s_watchdog_is_not_ours():
    assert ServiceManager.of({"WATCHDOG_USEC": "3000000", "WATCHDOG_PID": "1"}).watchdog_s is None


def test_a_sign_of_life_comes_only_after_the_probe(told):
    async def scenario():
        gate = asyncio.Event()
        manager = ServiceManager.of(environment(told, WATCHDOG_USEC="60000000"))
        informing = asyncio.create_task(manager.keep_informed(gate.wait, lambda: "3 runs"))
        for _ in range(10):
            await asyncio.sleep(0)
        told.setblocking(False)
        with pytest.raises(BlockingIOError):
            told.recv(4096)
        gate.set()
        told.settimeout(20)
        message = await asyncio.to_thread(told.recv, 4096)
        informing.cancel()
        return message

    assert asyncio.run(scenario()) == b"WATCHDOG=1\nSTATUS=3 runs"


def test_signs_of_life_end_when_the_probe_fails(told):
    async def probe():
        raise JournalError("the disk is gone")

    asyncio.run(ServiceManager.of(environment(told)).keep_informed(probe, lambda: ""))
    told.setblocking(False)
    with pytest.raises(BlockingIOError):
        told.recv(4096)


def test_a_name_without_a_file_is_understood():
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as inbox:
        inbox.bind(f"\0tracker-daemon-test-{os.getpid()}")
        inbox.settimeout(20)
        ServiceManager(f"@tracker-daemon-test-{os.getpid()}").ready()
        assert inbox.recv(4096) == b"READY=1"


def test_a_service_manager_that_is_gone_does_no_harm(tmp_path):
    ServiceManager(str(tmp_path / "nobody")).ready()
    assert list(tmp_path.iterdir()) == []


def test_without_a_service_manager_nothing_is_kept_informed():
    asked = []

    async def probe():
        asked.append("probe")

    asyncio.run(ServiceManager.of({}).keep_informed(probe, lambda: asked.append("status") or ""))
    assert asked == []

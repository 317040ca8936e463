"""What a daemon sees of the processes on its host."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from tracker_daemon.processes.host_watch import HostWatch, Place
from tracker_protocol.host_processes import ancestors, pid_space, program_name, start_ticks
from tracker_protocol.v1 import tracker_pb2 as pb

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has this /proc")


@pytest.fixture
def process():
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    yield child
    child.kill()
    child.communicate()


def described(pid, source="torchrun", space=None, ticks=None, parents=()):
    place = pb.ProcessPlace(
        pid_space=pid_space() if space is None else space,
        start_ticks=start_ticks(pid) if ticks is None else ticks,
        ancestors=[pb.Ancestor(pid=p.pid, start_ticks=p.start_ticks, program=p.program) for p in parents],
    )
    return Place.of(pb.Process(pid=pid, rank_source=source, place=place))


def test_a_process_is_gone_once_it_has_ended_although_its_parent_has_not_noticed(process):
    place, watch = described(process.pid), HostWatch()
    assert (watch.is_here(place), watch.is_gone(place)) == (True, False)
    process.kill()
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert watch.is_gone(place)
    process.wait()
    assert watch.is_gone(place)


def test_a_pid_that_is_used_again_is_another_process(process):
    assert HostWatch().is_gone(described(process.pid, ticks=1))


@pytest.mark.parametrize("space", ["", "another boot/4026531836"])
def test_a_process_of_another_pid_space_is_neither_here_nor_gone(space):
    place, watch = described(2**22 + 1, space=space, ticks=1), HostWatch()
    assert (watch.is_here(place), watch.is_gone(place), watch.is_launcher_gone(place)) == (
        False,
        False,
        False,
    )


def test_the_launcher_is_the_nearest_known_one_else_the_parent_and_a_single_process_is_its_own(process):
    here = ancestors()
    assert here[0].pid == os.getppid()
    shell, torchrun = here[0]._replace(program="bash"), here[0]._replace(program="torchrun", pid=process.pid)
    assert described(os.getpid(), parents=[shell, torchrun]).launcher == torchrun
    assert described(os.getpid(), parents=[shell]).launcher == shell
    for parents in ([], [shell], [shell, torchrun]):
        assert described(os.getpid(), "one process", parents=parents).launcher.pid == os.getpid()


def test_a_launcher_is_gone_once_it_has_ended(process):
    parent = ancestors()[0]._replace(pid=process.pid, start_ticks=start_ticks(process.pid))
    place, watch = described(os.getpid(), parents=[parent]), HostWatch()
    assert not watch.is_launcher_gone(place)
    process.kill()
    process.wait()
    assert watch.is_launcher_gone(place)


@pytest.mark.parametrize(
    ("words", "name"),
    [
        ("bash -c x", "bash"),
        ("/opt/bin/torchrun train.py", "torchrun"),
        ("/usr/bin/python3.11 -u /opt/bin/torchrun --nproc 2", "torchrun"),
        ("python -W ignore -m torch.distributed.run train.py", "torch.distributed.run"),
        ("python -mtorch.distributed.run", "torch.distributed.run"),
        ("python -c pass", "python"),
        ("python", "python"),
        ("", ""),
    ],
)
def test_a_program_s_name_is_that_of_its_script_or_module(words, name):
    assert program_name(words.split()) == name

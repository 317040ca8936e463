"""Two processes claim one rank: the one that is gone gives way, the one that lives stays."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.support.ranks import Ranks, finish
from tests.support.waiting import wait_until

SCRIPT = """
import logging, os, sys
from tracker_client import setup_tracker
logging.basicConfig(format="%(message)s")
tracker = setup_tracker("claims", handle_timeout=60)
print(tracker.attempt, os.getpid(), flush=True)
step = 0
for line in sys.stdin:
    tracker.log({"x": float(line)}, step=step)
    step += 1
tracker.finish()
"""


def say(process, value):
    process.stdin.write(f"{value}\n")
    process.stdin.flush()


def attempt_of(process):
    line = process.stdout.readline()
    assert line, process.stderr.read()
    return int(line.split()[0])


def received(daemon):
    return sum(run["books"]["received"] for run in daemon.status()["runs"])


def the_old_one_s_values_went_into_its_own_attempt(daemon, holder, claimant):
    """What a fenced process still sends is taken in, but changes nothing of the attempt after it."""
    say(holder, 7)
    wait_until(lambda: received(daemon) == 3, "the fenced process's value to come")
    finish(claimant)
    out, err = holder.communicate(timeout=60)
    assert holder.returncode == 0, (out, err)
    assert "attempt 2" in err
    (run,) = daemon.status()["runs"]
    assert (run["attempt"], run["status"], run["books"]["late"]) == (2, "FINISHED", 1)
    daemon.stop()
    # The primary's own values are recorded also where they came late.
    assert [row["x"] for row in daemon.rows()] == ["1.0", "2.0", "7.0"]


def test_a_process_that_hangs_loses_its_rank_and_what_it_still_sends_is_kept(make_daemon):
    daemon = make_daemon("--backends", "csv", "--challenge-timeout-s", "1")
    ranks = Ranks(daemon)
    (holder,) = ranks.start(SCRIPT, [0], 1)
    assert attempt_of(holder) == 1
    say(holder, 1)
    wait_until(lambda: received(daemon) == 1, "the first value to come")
    holder.send_signal(signal.SIGSTOP)
    try:
        (claimant,) = ranks.start(SCRIPT, [0], 1)
        assert attempt_of(claimant) == 2
        say(claimant, 2)
        wait_until(lambda: received(daemon) == 2, "the second value to come")
    finally:
        holder.send_signal(signal.SIGCONT)
    the_old_one_s_values_went_into_its_own_attempt(daemon, holder, claimant)


@pytest.fixture
def other_host():
    """A network namespace as another host: the command that runs there, our address as seen from it, and
    ``link("down")``."""
    if os.geteuid() or shutil.which("ip") is None:
        pytest.skip("needs root and iproute2")
    name = f"trk{os.getpid() % 100_000}"
    subnet = f"198.18.{os.getpid() % 256}"

    def ip(*arguments):
        subprocess.run(["ip", *arguments], check=True)

    try:
        ip("netns", "add", name)
    except subprocess.CalledProcessError:
        pytest.skip("network namespaces cannot be made here")
    try:
        ip("link", "add", f"{name}a", "type", "veth", "peer", "name", f"{name}b", "netns", name)
        ip("addr", "add", f"{subnet}.1/24", "dev", f"{name}a")
        ip("link", "set", f"{name}a", "up")
        ip("-n", name, "addr", "add", f"{subnet}.2/24", "dev", f"{name}b")
        ip("-n", name, "link", "set", f"{name}b", "up")

        def link(state):
            ip("-n", name, "link", "set", f"{name}b", state)

        yield ["ip", "netns", "exec", name], f"{subnet}.1", link
    finally:
        subprocess.run(["ip", "link", "del", f"{name}a"], check=False)
        subprocess.run(["ip", "netns", "del", name], check=False)


def test_a_host_that_is_gone_with_its_connection_half_open_loses_its_rank(make_daemon, other_host):
    inside, address, link = other_host
    daemon = make_daemon("--backends", "csv", "--listen", "0.0.0.0:0", "--challenge-timeout-s", "1")
    port = str(daemon.endpoint["endpoint"]).rpartition(":")[2]
    environ = {
        **os.environ, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "TRACKER_LAUNCH_ID": "the-launch",
        "TRACKER_ENDPOINT": f"{address}:{port}", "TRACKER_TOKEN": daemon.endpoint["token"],
    }  # fmt: skip
    holder = subprocess.Popen(
        [*inside, sys.executable, "-c", SCRIPT], env=environ, text=True,
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    try:
        assert attempt_of(holder) == 1
        say(holder, 1)
        wait_until(lambda: received(daemon) == 1, "the first value to come")
        link("down")
        (claimant,) = Ranks(daemon).start(SCRIPT, [0], 1)
        assert attempt_of(claimant) == 2
        say(claimant, 2)
        wait_until(lambda: received(daemon) == 2, "the second value to come")
        link("up")
        the_old_one_s_values_went_into_its_own_attempt(daemon, holder, claimant)
    finally:
        holder.kill()
        holder.wait()


def test_a_refused_process_warns_with_both_named_and_gets_its_rank_once_the_other_has_ended(daemon, ranks):
    (holder,) = ranks.start(SCRIPT, [0], 2)
    assert attempt_of(holder) == 1
    (claimant,) = ranks.start(SCRIPT, [0], 2)
    say(claimant, 5)
    warning = claimant.stderr.readline()
    assert f"process {holder.pid} on" in warning
    assert f"process {claimant.pid} on" in warning
    holder.kill()
    holder.wait()
    assert attempt_of(claimant) == 2
    finish(claimant)
    assert received(daemon) == 1

"""The journal loses what it had acknowledged: a disk that lied, or a state directory put back from a copy."""

from __future__ import annotations

import shutil

import pytest

from tests.support.ranks import finish
from tests.support.waiting import wait_until
from tracker_daemon.journal import Journal

SCRIPT = """
import os, sys, time
from tracker_client import setup_tracker

rank = int(os.environ["RANK"])
tracker = setup_tracker("lost")
step = 0
for line in sys.stdin:
    if line == "end\\n":
        break
    for _ in range(int(line)):
        tracker.log({"loss": step + rank / 8, f"own/{rank}": float(step)}, step=step)
        step += 1
    # Everything is acknowledged, at the latest when a daemon is there again.
    while tracker.status().unacknowledged_points + tracker.status().buffered_points:
        time.sleep(0.002)
    print(step, flush=True)
tracker.finish(timeout=50)
print(tracker.status().dropped_points)
"""
WORLD, STEPS = 2, 50


class Job:
    """Ranks that log on demand, and the daemon that they log to."""

    def __init__(self, daemon, ranks):
        self.daemon = daemon
        self.steps = 0
        self.processes = ranks.start(SCRIPT, range(WORLD), WORLD)

    def log(self):
        """Another turn of every rank; returns once it is acknowledged."""
        for process in self.processes:
            process.stdin.write(f"{STEPS}\n")
            process.stdin.flush()
        self.steps += STEPS
        for process in self.processes:
            assert int(process.stdout.readline()) == self.steps

    def end(self):
        for process in self.processes:
            process.stdin.write("end\n")
            assert finish(process) == "0\n"

    def run(self):
        return self.daemon.status()["runs"][0]

    def learn(self):
        """The first turn: by its end the daemon has learned which rank reports what."""
        self.log()
        wait_until(lambda: self.run()["books"]["open"] == 0, "the first turn's records")


@pytest.fixture
def daemon(make_daemon):
    return make_daemon("--backends", "csv", "--learn-wait-s", "0.2", "--flush-interval-s", "0.1")


def copy_state(daemon, name):
    copy = daemon.home / name
    shutil.copytree(daemon.state_dir, copy)
    return copy


def put_back(daemon, copy):
    shutil.rmtree(daemon.state_dir)
    if copy is not None:
        shutil.copytree(copy, daemon.state_dir)


def pending(state_dir):
    """How many records the closed journal holds that its only backend has not taken."""
    journal = Journal.open(state_dir, history_bytes=1 << 40, silence_s=0.0)
    try:
        backlog = journal.backlog(1)
        return sum(map(backlog.pending, backlog.cursors))
    finally:
        journal.close()


def cells(rows):
    return [
        (int(row["step"]), name) for row in rows for name, value in row.items() if value and name != "step"
    ]


def losses(run):
    return [event["text"] for event in run["events"] if "the journal has lost" in event["text"]]


def check_values(rows):
    """No cell holds anything but what was logged at its step."""
    for row in rows:
        step = int(row["step"])
        for name, expected in (("loss", step), ("loss/mean", step + 1 / 16), ("own/1", step)):
            assert row[name] in ("", repr(float(expected))), row


def test_a_journal_without_its_tail_begins_an_epoch_and_goes_on(daemon, ranks):
    job = Job(daemon, ranks)
    job.learn()
    daemon.stop()
    copy = copy_state(daemon, "older")
    daemon.start()
    job.log()
    daemon.stop()
    before = (daemon.outdir / "metrics.csv").read_bytes()
    assert len(daemon.rows()) >= 2 * STEPS
    put_back(daemon, copy)
    daemon.start()
    job.log()

    assert daemon.status()["daemon"]["epoch"] == 2
    told = losses(job.run())
    assert len(told) == WORLD
    assert all(f"of rank {rank}" in "".join(told) for rank in range(WORLD))
    assert job.run()["books"]["received"] == 2 * STEPS * WORLD * 2  # the middle turn is not there any more

    # A restart changes nothing of that.
    daemon.kill()
    daemon.start()
    job.end()
    assert daemon.status()["daemon"]["epoch"] == 2
    run = job.run()
    assert losses(run) == told
    assert run["status"] == "FINISHED"
    assert daemon.stop() == 0
    assert (daemon.outdir / "metrics.csv").read_bytes().startswith(before)
    rows = daemon.rows()
    check_values(rows)
    found = cells(rows)
    assert len(found) == len(set(found))
    assert {step for step, name in found if name == "loss/mean"} == set(range(3 * STEPS))


@pytest.mark.long
def test_rows_that_only_the_csv_still_has_survive_though_delivery_was_behind(daemon, ranks):
    job = Job(daemon, ranks)
    job.learn()
    daemon.stop()
    daemon.start()
    for turn in range(20):
        job.log()
        daemon.kill()  # what was acknowledged a moment ago is journalled and hardly delivered
        copy = copy_state(daemon, f"older{turn}")
        if pending(copy_state(daemon, f"looked-at{turn}")):
            break
        daemon.start()
    else:
        pytest.fail("delivery was always quicker than the kill")
    daemon.start()
    job.log()
    daemon.stop()
    before = (daemon.outdir / "metrics.csv").read_bytes()
    assert {int(row["step"]) for row in daemon.rows()} == set(range(job.steps))
    put_back(daemon, copy)
    daemon.start()
    job.log()
    assert daemon.status()["daemon"]["epoch"] == 2
    job.end()
    assert daemon.stop() == 0
    # The journal cannot know which of its last records the file has already: some may be there twice.
    assert (daemon.outdir / "metrics.csv").read_bytes().startswith(before)
    check_values(daemon.rows())
    assert {int(row["step"]) for row in daemon.rows()} == set(range(job.steps))


def test_an_empty_state_directory_makes_a_new_run_and_leaves_the_old_file_alone(daemon, ranks):
    job = Job(daemon, ranks)
    job.learn()
    daemon.stop()
    before = (daemon.outdir / "metrics.csv").read_bytes()
    put_back(daemon, None)
    daemon.start()
    job.log()
    job.end()
    status = daemon.status()
    assert status["daemon"]["epoch"] == 2
    (run,) = status["runs"]
    assert len(losses(run)) == WORLD
    assert run["status"] == "FINISHED"
    assert daemon.stop() == 0
    assert (daemon.outdir / "metrics.csv").read_bytes() == before
    rows = daemon.rows(daemon.directory_of(run["run_id"]))
    check_values(rows)
    found = cells(rows)
    assert len(found) == len(set(found))
    assert {step for step, name in found if name == "loss/mean"} == set(range(STEPS, 2 * STEPS))

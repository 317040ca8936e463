"""What a tree of daemons stands when its parts come back without what they knew."""

from __future__ import annotations

import shutil
import signal

import pytest

from tests.support.daemon_tree import STEPWISE, heard, planted, say
from tests.support.ranks import Ranks, finish
from tests.support.waiting import wait_until


def state_of(tree, rank: int) -> str:
    return tree.the_run()["ranks"][rank]["state"]


def has_delivered(daemon) -> bool:
    (run,) = daemon.status()["runs"]
    return all(backend["pending"] == 0 for backend in run["backends"])


def test_a_rank_that_dies_is_lost_though_its_node_has_been_restarted_with_nothing_to_forward(make_daemon):
    with planted(make_daemon, "--lost-timeout-s", "10", nodes=1) as tree:
        processes = tree.start(STEPWISE)
        for process in processes:
            process.stdout.readline()
            say(process, 1)
        wait_until(lambda: tree.the_run()["records"]["emitted"] == 1, "the first record")
        wait_until(lambda: has_delivered(tree.nodes[0]), "everything to be forwarded")
        tree.nodes[0].kill()
        wait_until(lambda: state_of(tree, 1) != "live", "the root to miss the node")
        tree.nodes[0].start()
        for rank in range(2):
            wait_until(lambda rank=rank: state_of(tree, rank) == "live", "the ranks to be back")
        processes[1].kill()
        wait_until(lambda: state_of(tree, 1) == "lost", "rank 1 to be lost")


WAITING = """
import os, sys, time
from tracker_client import setup_tracker
tracker = setup_tracker("tree")
tracker.log({"x": 1.0}, step=0)
tracker.log_artifacts({"weights": os.environ["WEIGHTS"]})
sys.stdin.readline()
begun = time.monotonic()
tracker.finish(wait="delivered", timeout=30)
print(time.monotonic() - begun < 25)
"""


def test_a_rank_hears_that_all_is_delivered_though_its_node_was_restarted_after_its_files(
    make_daemon, tmp_path
):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(b"weights")
    with planted(make_daemon, nodes=1, per_node=1) as tree:
        (process,) = tree.start(WAITING, WEIGHTS=str(weights))
        recorded = tree.root.outdir / "artifacts/weights/weights.bin"
        wait_until(recorded.exists, "the artifact to be recorded")
        wait_until(lambda: has_delivered(tree.nodes[0]), "everything to be forwarded")
        tree.nodes[0].kill()
        tree.nodes[0].start()
        say(process, "finish")
        assert finish(process).strip() == "True"


def test_a_rank_that_comes_back_through_its_restarted_node_keeps_its_rank(make_daemon):
    with planted(make_daemon, "--challenge-timeout-s", "15", per_node=1) as tree:
        (holder,) = tree.start(STEPWISE, range(1))
        assert holder.stdout.readline().split()[1] == "1"
        tree.nodes[0].kill()
        wait_until(lambda: state_of(tree, 0) == "disconnected", "the root to miss the node")
        at_other = Ranks(tree.nodes[1])
        tree.ranks.append(at_other)
        (claimant,) = at_other.start(STEPWISE, [0], 2)
        tree.nodes[0].start()
        wait_until(lambda: "claims it too" in heard(claimant), "the second process to be refused")


STEADY = """
import os, signal, time
from tracker_client import setup_tracker
told = []
signal.signal(signal.SIGTERM, lambda *_: told.append(True))
tracker = setup_tracker("tree")
print(tracker.run_id, flush=True)
step = 0
while not told:
    tracker.log({"x": float(step)}, step=step)
    step += 1
    time.sleep(0.02)
begun = time.monotonic()
tracker.finish(wait="delivered", timeout=30)
print(time.monotonic() - begun < 20)
"""


@pytest.mark.parametrize("outstay", [False, True])
def test_a_job_that_is_ended_at_once_everywhere_has_at_the_root_what_its_ranks_logged_last(
    make_daemon, outstay
):
    root = make_daemon("--backends", "csv", "--grace-s", "8")
    node = make_daemon("--upstream", str(root.endpoint_file), "--grace-s", "8")
    ranks = Ranks(node)
    processes = ranks.start(STEADY, range(2), 2)
    try:
        for process in processes:
            process.stdout.readline()
        wait_until(lambda: root.status()["runs"][0]["records"]["emitted"], "the first records")
        for told in (root.process, node.process, *(() if outstay else processes)):
            told.send_signal(signal.SIGTERM)
        if not outstay:
            assert [finish(process).strip() for process in processes] == ["True"] * 2
        assert (node.process.wait(30), root.process.wait(30)) == (0, 0)
    finally:
        for process in processes:
            process.kill()
            process.communicate()
    (run,), (forwarded,) = root.last_status()["runs"], node.last_status()["runs"]
    assert run["books"]["received"] == forwarded["books"]["received"]
    assert run["status"] == forwarded["status"] == ("FAILED" if outstay else "FINISHED")
    assert not outstay or "ended by SIGKILL" in run["reason"]


TRIAL = """
import sys
from tracker_client import setup_tracker
tracker = setup_tracker("tree")
print(tracker.run_id, flush=True)
tracker.log({"x": 1.0}, step=0)
sys.stdin.readline()
tracker.finish()
"""


def test_the_next_trial_is_another_run_though_a_node_has_yet_to_tell_of_the_one_before(make_daemon):
    with planted(make_daemon, per_node=1) as tree:
        first = tree.start(TRIAL)
        run_ids = {process.stdout.readline() for process in first}
        assert len(run_ids) == 1
        tree.root.kill()
        for process, node in zip(first, tree.nodes, strict=True):
            say(process, "finish")
            wait_until(
                lambda node=node: node.status()["runs"][0]["ranks"][0]["state"] == "finished",
                "the end of a rank, which waits for the root",
            )
            process.kill()
        tree.nodes[1].kill()
        tree.root.start()
        wait_until(lambda: state_of(tree, 0) == "finished", "the first node to tell of its rank")
        second = tree.start(TRIAL)[:1]
        tree.nodes[1].start()
        assert second[0].stdout.readline() not in run_ids


def test_a_node_whose_journal_lost_its_end_says_so_and_what_comes_after_is_recorded(make_daemon, tmp_path):
    """As after a power loss on a disk that lied: nobody is left who knows that the root had more."""
    with planted(make_daemon, "--lost-timeout-s", "2", nodes=1, per_node=1) as tree:
        (node,) = tree.nodes
        (first,) = tree.start(STEPWISE)
        run_id, _ = first.stdout.readline().split()
        say(first, 1)
        wait_until(lambda: tree.the_run()["records"]["emitted"] == 1, "the first record")
        wait_until(lambda: has_delivered(node), "everything to be forwarded")
        node.kill()
        older = tmp_path / "older"
        shutil.copytree(node.state_dir, older)
        node.start()
        say(first, 2)
        wait_until(lambda: tree.the_run()["records"]["emitted"] == 2, "what the older journal lacks")
        wait_until(lambda: has_delivered(node), "everything to be forwarded again")
        first.kill()
        node.kill()
        shutil.rmtree(node.state_dir)
        older.rename(node.state_dir)
        node.start()
        (second,) = tree.start(STEPWISE, TRACKER_RUN_ID=run_id)
        assert second.stdout.readline().split() == [run_id, "2"]
        say(second, 3)
        finish(second)
        run = tree.await_end()
        tree.stop()
    assert [(row["attempt"] or "1", row["x"]) for row in tree.root.rows()] == [
        ("1", "1.0"), ("1", "2.0"), ("2", "3.0"),
    ]  # fmt: skip
    assert any("has lost the batches that it forwarded last" in event["text"] for event in run["events"])

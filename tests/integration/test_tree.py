"""Daemons on each node that forward to a root: real daemons, real ranks, one run."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest

from tests.support.daemon_tree import STEPWISE, heard, planted, say, variables
from tests.support.ranks import Ranks, finish
from tests.support.waiting import PATIENCE_S, wait_until

LOGGING = """
import json, os, random
from tracker_client import setup_tracker
rank = int(os.environ["RANK"])
random.seed(rank)
own = []
with setup_tracker("tree", config={"steps": 100, "rank": rank}) as tracker:
    for step in range(100):
        value = random.gauss(0, 1) * 10.0 ** rank
        tracker.log({"loss": value, "speed": float(rank)}, step=step)
        own.append(value)
    if rank == 3:
        tracker.log({"only/three": 0.5, "note": "from the last"}, step=99)
print(json.dumps([tracker.run_id, own]))
"""


def test_ranks_of_two_nodes_make_one_run_whose_aggregates_are_those_of_numpy(make_daemon):
    with planted(make_daemon) as tree:
        said = [json.loads(out) for out in tree.run(LOGGING)]
        run = tree.await_end()
        tree.await_end_at_nodes()
        tree.stop()
    assert {run_id for run_id, _ in said} == {run["run_id"]}
    values = np.array([own for _, own in said]).T
    rows = [row for row in tree.root.rows() if row["loss"]]
    assert [int(row["step"]) for row in rows] == list(range(100))
    for row, x in zip(rows, values, strict=True):
        assert float(row["loss"]) == x[0]
        assert (float(row["loss/min"]), float(row["loss/max"])) == (x.min(), x.max())
        assert float(row["loss/mean"]) == pytest.approx(x.mean(), abs=1e-12 * np.abs(x).max())
        assert float(row["loss/std"]) == pytest.approx(x.std(), rel=1e-9)
        assert row["speed/mean"] == "1.5"
    assert [row["only/three"] for row in tree.root.rows() if row["only/three"]] == ["0.5"]
    assert not any("count" in column for column in rows[0])
    assert [(rank["rank"], rank["state"]) for rank in run["ranks"]] == [(n, "finished") for n in range(4)]
    books = run["books"]
    assert books["received"] == 4 * 100 * 2 + 1
    assert books["received"] == books["folded"] + books["open"] + books["late"] + books["rejected"]
    assert (books["late"], books["open"], books["rejected"]) == (0, 0, 0)
    for node in tree.nodes:
        (forwarded,) = node.last_status()["runs"]
        assert (forwarded["run_id"], forwarded["status"]) == (run["run_id"], "FINISHED")
        assert not (node.outdir / "metrics.csv").exists(), "a node's daemon records nothing itself"


def test_neither_the_root_s_nor_a_node_s_sudden_death_loses_or_doubles_a_value(make_daemon):
    with planted(make_daemon) as tree:
        processes = tree.start(STEPWISE)
        run_ids = {process.stdout.readline().split()[0] for process in processes}
        for step in range(60):
            for process in processes:
                say(process, step)
            if step == 20:
                wait_until(lambda: tree.the_run()["records"]["emitted"], "the first records")
                tree.root.kill()
            if step == 25:
                tree.nodes[1].kill()
            if step == 30:
                tree.nodes[1].start()
            if step == 40:
                tree.root.start()
        for process in processes:
            finish(process)
        run = tree.await_end()
        tree.stop()
    assert run_ids == {run["run_id"]}
    assert Counter(int(row["step"]) for row in tree.root.rows()) == Counter(range(60))
    assert [row["x/mean"] for row in tree.root.rows()] == [f"{float(step)}" for step in range(60)]
    assert run["books"]["received"] == 4 * 60
    assert run["books"]["late"] == 0


def test_a_rank_that_dies_and_a_node_that_is_gone_are_named_and_stop_nobody(make_daemon):
    with planted(make_daemon, "--lost-timeout-s", "2", "--partial-after-s", "5") as tree:
        processes = tree.start(STEPWISE)
        for process in processes:
            process.stdout.readline()
            say(process, 1)
        wait_until(lambda: tree.the_run()["records"]["emitted"] == 1, "the first record")
        processes[1].kill()
        wait_until(lambda: tree.the_run()["ranks"][1]["state"] == "lost", "rank 1 to be lost")
        for process in (processes[0], *processes[2:]):
            say(process, 2)
        wait_until(lambda: tree.the_run()["records"]["emitted"] == 2, "a record without rank 1")
        tree.nodes[1].kill()
        wait_until(
            lambda: [rank["state"] for rank in tree.the_run()["ranks"][2:]] == ["lost", "lost"],
            "the ranks of the second node to be lost",
        )
        for process in processes[2:]:
            process.kill()
        finish(processes[0])
        run = tree.await_end("FAILED")
    for rank in (1, 2, 3):
        assert f"{rank} on " in run["reason"]
    assert "lost contact" in run["reason"]


def test_a_rank_that_hangs_at_one_node_gives_way_to_a_process_at_another(make_daemon):
    with planted(make_daemon, "--challenge-timeout-s", "1", per_node=1) as tree:
        (holder,) = tree.start(STEPWISE, range(1))
        run_id, attempt = holder.stdout.readline().split()
        assert attempt == "1"
        at_other = Ranks(tree.nodes[1])
        tree.ranks.append(at_other)
        (refused,) = at_other.start(STEPWISE, [0], 2)
        wait_until(lambda: "claims it too" in heard(refused), "the second process to be refused")
        os.kill(holder.pid, signal.SIGSTOP)
        try:
            assert refused.stdout.readline().split() == [run_id, "2"]
        finally:
            os.kill(holder.pid, signal.SIGCONT)


def test_what_only_the_primary_logs_while_the_others_wait_is_recorded_soon(make_daemon):
    with planted(make_daemon, "--learn-wait-s", "1", "--partial-after-s", "600") as tree:
        processes = tree.start(STEPWISE)
        for process in processes:
            process.stdout.readline()
        say(processes[0], 1)
        wait_until(lambda: tree.the_run()["records"]["emitted"] == 1, "the value to be recorded")


def test_ranks_that_are_started_again_at_their_nodes_make_the_next_attempt(make_daemon):
    with planted(make_daemon, "--challenge-timeout-s", "1", "--restart-grace-s", "60") as tree:
        first = tree.start(STEPWISE)
        for process in first:
            process.stdout.readline()
            say(process, 1)
        wait_until(lambda: tree.the_run()["records"]["emitted"] == 1, "the first record")
        for process in first:
            say(process, 2)
            process.kill()
        second = tree.start(STEPWISE)
        said = [process.stdout.readline().split() for process in second]
        assert {attempt for _, attempt in said} == {"2"}
        for process in second:
            say(process, 3)
        for process in second:
            finish(process)
        run = tree.await_end()
        tree.stop()
    assert {run_id for run_id, _ in said} == {run["run_id"]}
    rows = [(row["attempt"] or "1", row["step"], row["x/mean"]) for row in tree.root.rows()]
    assert rows[0] == ("1", "0", "1.0")
    assert rows[-1] == ("2", "0", "3.0")
    assert run["books"]["late"] == 0


ITEMS = """
import os
from tracker_client import setup_tracker
rank = int(os.environ["RANK"])
with setup_tracker("tree", outdir=os.environ["OUT"]) as tracker:
    tracker.log({"loss": float(rank)}, step=0)
    if rank == 0:
        tracker.log_table("answers", ["n", "square"], [[n, n * n] for n in range(3)])
        tracker.log_artifacts({"weights": os.environ["WEIGHTS"]})
    tracker.finish(wait="delivered", timeout=60)
    if rank == 0:
        print(open(os.path.join(os.environ["OUT"], "answers.csv")).read().count("\\n"))
"""


def test_tables_and_artifacts_reach_the_root_and_a_rank_can_wait_until_all_is_delivered(
    make_daemon, tmp_path
):
    weights = tmp_path / "weights.bin"
    weights.write_bytes(os.urandom(3_000_000))
    with planted(make_daemon) as tree:
        said = tree.run(ITEMS, WEIGHTS=str(weights), OUT=str(tmp_path / "runs"))
        tree.await_end()
        tree.stop()
    assert said[0].strip() == "4"
    assert (tmp_path / "runs/artifacts/weights/weights.bin").read_bytes() == weights.read_bytes()
    assert not any("delivery waits" in node.log() for node in tree.nodes)


FINISHING = """
import csv, logging, os, sys
from tracker_client import setup_tracker
logging.basicConfig(format="%(message)s")
tracker = setup_tracker("tree", outdir=os.environ["OUT"], handle_timeout=60)
print(tracker.run_id, flush=True)
timeout = float(sys.stdin.readline())
for step in range(5):
    tracker.log({"loss": float(step)}, step=step)
print("logged", flush=True)
tracker.finish(timeout=timeout)
rows = csv.DictReader(open(tracker.directory / "metrics.csv")) if timeout == 60 else ()
print("finished", [row["loss/mean"] for row in rows], flush=True)
"""


def test_finish_waits_for_the_root_and_then_on_the_primary_rank_for_its_files(make_daemon, tmp_path):
    with planted(make_daemon, nodes=1) as tree:
        primary, other = tree.start(FINISHING, OUT=str(tmp_path / "runs"))
        for process in (primary, other):
            process.stdout.readline()
        tree.root.process.send_signal(signal.SIGSTOP)
        try:
            say(primary, "60")
            assert primary.stdout.readline() == "logged\n"
            say(other, "2")
            out, err = other.communicate(timeout=PATIENCE_S)
            assert out.split() == ["logged", "finished", "[]"]
            assert f"the root ({tree.root.endpoint_file}) does not have everything yet" in err
            assert str(tree.nodes[0].state_dir) in err
            assert primary.poll() is None
            assert heard(primary) == ""
        finally:
            tree.root.process.send_signal(signal.SIGCONT)
        out, err = primary.communicate(timeout=PATIENCE_S)
        assert out.strip() == f"finished {[f'{float(step)}' for step in range(5)]}"
        assert err == ""


OWN_CLASS = """
import os
from tracker_client import TrackerBackend, register_backend, setup_tracker

class Mine(TrackerBackend):
    name = "mine"
    rows = []
    def log_config(self, config):
        pass
    def finish(self):
        pass
    def log(self, metrics, step=None, commit=True):
        self.rows.append((step, dict(metrics)))

register_backend("mine", Mine)
rank = int(os.environ["RANK"])
with setup_tracker("tree", backends="wandb,mine", outdir=os.environ["OUT"]) as tracker:
    for step in range(5):
        tracker.log({"loss": float(step + rank)}, step=step)
    if rank == 0:
        assert tracker.wandb_run.id == tracker.run_id, (tracker.wandb_run.id, tracker.run_id)
    tracker.finish(wait="delivered", timeout=60)
if rank == 0:
    print([(step, row["loss"], row["loss/mean"]) for step, row in Mine.rows])
"""


def test_the_primary_rank_s_own_class_is_fed_and_its_handles_told_through_the_node(make_daemon, tmp_path):
    with planted(make_daemon) as tree:
        said = tree.run(OWN_CLASS, OUT=str(tmp_path / "runs"), WANDB_MODE="offline")
        tree.await_end()
    assert said[0].splitlines()[-1] == str([(step, float(step), step + 1.5) for step in range(5)])


def test_a_new_rank_waits_for_the_root_and_loses_nothing(make_daemon):
    with planted(make_daemon, nodes=1, per_node=1) as tree:
        tree.root.kill()
        (process,) = tree.start(STEPWISE)
        say(process, 7)
        wait_until(lambda: "a rank has to wait" in tree.nodes[0].log(), "the rank to be refused for now")
        tree.root.start()
        finish(process)
        tree.await_end()
        tree.stop()
    assert [row["x"] for row in tree.root.rows()] == ["7.0"]


def test_what_a_node_could_not_forward_is_delivered_by_sync(make_daemon):
    with planted(make_daemon, nodes=1) as tree:
        processes = tree.start(STEPWISE)
        for process in processes:
            process.stdout.readline()
        tree.root.kill()
        (node,) = tree.nodes
        for process in processes:
            for step in range(5):
                say(process, step)
            process.stdin.close()
            process.stdin = None
        finished = ["finished", "finished"]
        wait_until(
            lambda: [rank["state"] for rank in node.status()["runs"][0]["ranks"]] == finished,
            "the ends of the ranks, which wait for the root",
        )
        tree.kill_ranks()
        stop = [sys.executable, "-m", "tracker_daemon", "stop", "--timeout", "1"]
        subprocess.run([*stop, "--endpoint-file", str(node.endpoint_file)], check=True)
        node.process.wait(PATIENCE_S)
        sync = [sys.executable, "-m", "tracker_daemon", "sync", str(node.state_dir), "--timeout", "60"]
        refused = subprocess.run(sync, capture_output=True, text=True, check=False)
        assert (refused.returncode, "--upstream" in refused.stderr) == (1, True), refused
        tree.root.start()
        delivered = subprocess.run([*sync, "--upstream", str(tree.root.endpoint_file)], check=False)
        assert delivered.returncode == 0
        tree.await_end()
        assert tree.root.stop() == 0
    assert [row["x/mean"] for row in tree.root.rows()] == [f"{float(step)}" for step in range(5)]


def test_a_forwarding_run_s_command_ends_for_the_ranks_that_did_not_say_so(make_daemon, tmp_path):
    script = "import os, tracker_client as t; x = t.setup_tracker('tree'); x.run_id; os._exit(7)"
    with planted(make_daemon, nodes=0) as tree:
        forwarding = [
            sys.executable,
            "-m",
            "tracker_daemon",
            "run",
            "--upstream",
            str(tree.root.endpoint_file),
        ]
        command = [*forwarding, "--", sys.executable, "-c", script]
        done = subprocess.run(
            command, cwd=tmp_path, env=variables(), capture_output=True, text=True, check=False
        )
        assert done.returncode == 7, done.stderr
        run = tree.await_end("FAILED")
    assert "exited with code 7" in run["reason"]


def test_a_daemon_that_forwards_takes_no_other_node_s_daemon(make_daemon):
    with planted(make_daemon, nodes=1, per_node=1) as tree:
        third = make_daemon("--upstream", str(tree.nodes[0].endpoint_file))
        ranks = Ranks(third)
        tree.ranks.append(ranks)
        (process,) = ranks.start(STEPWISE, [0], 1)
        wait_until(
            lambda: "forward to the root itself" in heard(process), "the rank to be told what is wrong"
        )


MEETING = """
import os, sys, time
from tracker_client import setup_tracker
rank, size = os.environ["RANK"], os.environ["WORLD_SIZE"]
if rank == "2":
    print("started", flush=True)
    sys.stdin.readline()
tracker = setup_tracker("meeting", name=f"run-{time.time()}", handle_timeout=60, exit_timeout=60)
if rank == "1":
    print("waits", flush=True)
for step in range(3):
    tracker.log({f"only/{rank}": float(step)}, step=step)
tracker.finish()
print(tracker.run_id, tracker.attempt)
"""


def test_ranks_of_nodes_wait_for_the_primary_rank_and_one_that_comes_after_the_end_delivers(make_daemon):
    with planted(make_daemon, "--record-ranks", "all", nodes=3, per_node=1) as tree:
        (late,) = tree.start(MEETING, range(2, 3))
        assert late.stdout.readline() == "started\n"
        (waiting,) = tree.start(MEETING, range(1, 2), WORLD_SIZE="2")
        assert waiting.stdout.readline() == "waits\n"
        assert tree.root.status()["runs"] == []
        (primary,) = tree.start(MEETING, range(1), WORLD_SIZE="2")
        first = finish(primary)
        assert finish(waiting) == first
        tree.await_end()
        say(late, "begin")
        assert finish(late) == first
        wait_until(lambda: tree.the_run()["books"]["received"] == 9, "the late rank's values")
        run = tree.the_run()
        assert (run["status"], run["attempt"]) == ("FINISHED", 1)
        tree.stop()
    columns = Counter(name for row in tree.root.rows() for name, text in row.items() if text)
    assert [columns[f"only/{rank}"] for rank in range(3)] == [3, 3, 3]

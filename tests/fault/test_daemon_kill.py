"""SIGKILL of the daemon while four ranks stream: every cell is recorded, and once."""

from __future__ import annotations

import json

from tests.support.ranks import finish
from tests.support.streaming import SCRIPT, STEPS_A_TURN, WORLD, assert_every_cell_is_there_once, logged, tell
from tests.support.waiting import wait_until


def acknowledged(daemon):
    runs = daemon.status()["runs"]
    return min((rank["next_sequence"] for rank in runs[0]["ranks"]), default=0) if runs else 0


def test_every_cell_is_recorded_once_though_the_daemon_is_killed(daemon, ranks, kills):
    processes = ranks.start(SCRIPT, range(WORLD), WORLD)
    for turn in range(kills):
        tell(processes, f"{STEPS_A_TURN}\n")
        logged(processes)
        # In the midst of things: the first turn's data is partly journalled, partly on its way.
        wait_until(lambda turn=turn: acknowledged(daemon) > turn, "the ranks to be acknowledged again")
        tell(processes, f"{STEPS_A_TURN}\n")
        daemon.kill()
        logged(processes)
        daemon.start()
    tell(processes, "end\n")
    for process in processes:
        assert finish(process) == "0 0\n"
    assert daemon.stop() == 0

    (run,) = daemon.last_status()["runs"]
    assert run["status"] == "FINISHED"
    assert_every_cell_is_there_once(daemon.rows(), run["books"], 2 * kills * STEPS_A_TURN)


def test_a_daemon_keeps_its_token_and_its_runs_over_a_restart(daemon, ranks):
    token = daemon.endpoint["token"]
    processes = ranks.start(SCRIPT, range(2), 2)
    tell(processes, "10\n")
    logged(processes)
    wait_until(lambda: acknowledged(daemon) > 1, "the ranks to be acknowledged")
    before = daemon.status()["runs"][0]["run_id"]
    daemon.kill()
    daemon.start()
    assert daemon.endpoint["token"] == token
    assert [run["run_id"] for run in daemon.status()["runs"]] == [before]
    tell(processes, "end\n")
    for process in processes:
        finish(process)
    (run,) = daemon.status()["runs"]
    assert (run["run_id"], run["status"]) == (before, "FINISHED")
    assert json.loads(json.dumps(run["books"]))["received"] == 2 * 10 * 2

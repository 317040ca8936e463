"""Runs jobs of two hosts in a machine of its own, as pbs_mom does. Prints one JSON object: what was seen."""

from __future__ import annotations

import json
import time
from contextlib import suppress
from pathlib import Path

from tests.support.hosts.pbs_hosts import NAMES, job_variables, make_hosts, on_first_host, tmp_of
from tests.support.hosts.pbs_mom import HOME, await_recorded, begin, end, status_of

RANKS_PER_NODE = 2
STEPS = 50
TRAINING = f"""
import os, signal, time
from tracker_client import setup_tracker
endless = "ENDLESS" in os.environ
if endless:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
with setup_tracker("pbs", backends="csv") as tracker:
    rank, step = int(os.environ["PMI_RANK"]), 0
    while endless or step < {STEPS}:
        tracker.log({{"x": float(step + rank)}}, step=step)
        step += 1
        if step >= {STEPS}:
            time.sleep(0.01)
"""
LAST_MEAN = f",{STEPS - 1 + 1.5},"  # of all four ranks, in metrics.csv
GONE_WITHIN_S = 5.0
OURS = ("tracker_daemon", "mpiexec", "hydra", "train.py")


def left_behind() -> list[str]:
    """The command lines of what a job left running on either host, given a moment to be gone."""
    deadline = time.monotonic() + GONE_WITHIN_S
    while (found := processes()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def processes() -> list[str]:
    """The command lines of all daemons and ranks, and of what launches them."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            found.append(path.read_text().replace("\0", " ").strip())
    return [line for line in found if any(word in line for word in OURS)]


def with_job_script(job: str, *, kill: bool) -> dict[str, object]:
    """A job to its end; or killed at walltime, with ranks that hang, amid what it records."""
    variables = job_variables(HOME / f"nodefile.{job}", RANKS_PER_NODE) | ({"ENDLESS": "1"} if kill else {})
    command = on_first_host("bash", f"{HOME}/job-node-local.pbs")
    process = begin(job, command, "root", SCRIPT=f"{HOME}/train.py", **variables)
    if kill:
        await_recorded(HOME / "runs" / job, LAST_MEAN, process)
    begun_s = time.monotonic()
    seen: dict[str, object] = {"job": end(process) if kill else process.wait(120)}
    seen["took_s"] = time.monotonic() - begun_s
    seen["output"] = process.stdout.read() if process.stdout else ""
    seen["left"] = left_behind()
    seen["on_nodes"] = [[path.name for path in tmp_of(name).iterdir()] for name in NAMES]
    seen["runs"] = status_of(HOME / ".tracker" / job)
    return seen


def main() -> None:
    make_hosts()
    (HOME / "train.py").write_text(TRAINING)
    seen = {
        "ended": with_job_script("1.pbs", kill=False),
        "killed": with_job_script("2.pbs", kill=True),
    }
    print(json.dumps(seen))


if __name__ == "__main__":
    main()

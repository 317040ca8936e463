"""Ranks under real launchers: each finds its place, and each launch is a run of its own.

Nothing but the daemon's endpoint is handed to the launchers, so what ties the ranks of a launch
together, and keeps two launches apart, is what the launchers themselves tell.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.support.daemon import Daemon

ROOT = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
SCRIPT = """
import os, sys, time
from tracker_client import setup_tracker
from tracker_client.identity.rank import detect_rank
found = detect_rank(os.environ, sys.modules)
with setup_tracker("launchers", strict=True) as tracker:
    tracker.log({"x": float(found.rank)}, step=0)
    line = f"{tracker.run_id} {found.rank} {found.world_size} {found.local_rank} {found.source}\\n"
    os.write(1, line.encode())
    # The launches are at once: none ends before all ranks of all of them are there.
    open(os.path.join(sys.argv[1], str(os.getpid())), "w").close()
    while len(os.listdir(sys.argv[1])) < int(sys.argv[2]):
        time.sleep(0.02)  # and leaves the cores to those that still start
"""


def free_port() -> str:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return str(listening.getsockname()[1])


def torchrun(*options: str) -> list[str]:
    return [sys.executable, "-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", "2", *options]


def without_id() -> list[str]:
    """Torchrun's run id is "none": only the port tells two launches of one host apart."""
    return torchrun("--master-addr", "127.0.0.1", "--master-port", free_port())


LAUNCHERS = {
    "torchrun without an id": without_id,
    "mpich": lambda: ["mpiexec.mpich", "-n", "2"],
    "openmpi": lambda: ["mpirun.openmpi", "--oversubscribe", "-n", "2"],
}
SOURCES = {"mpich": "MPICH", "openmpi": "Open MPI"}


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[object]:
    """One daemon for all launchers."""
    daemon = Daemon(tmp_path_factory.mktemp("daemon"), ("--backends", "csv"))
    yield daemon.start()
    daemon.kill()


@pytest.mark.parametrize("launcher", LAUNCHERS)
def test_ranks_find_their_places_and_two_launches_at_once_are_two_runs(daemon, launcher, tmp_path):
    commands = [LAUNCHERS[launcher]() for _ in range(2)]
    if shutil.which(commands[0][0]) is None:
        pytest.skip(f"{commands[0][0]} is not installed")
    script, present = tmp_path / "rank.py", tmp_path / "present"
    script.write_text(SCRIPT)
    present.mkdir()
    environ = {**clean_environment(), **ROOT, "TRACKER_ENDPOINT_FILE": str(daemon.endpoint_file)}
    interpreter = [] if launcher.startswith("torchrun") else [sys.executable]
    launches = [
        subprocess.Popen(
            [*command, *interpreter, str(script), str(present), "4"],
            env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for command in commands
    ]  # fmt: skip
    runs = [lines_of(launch) for launch in launches]
    ids = [{line[0] for line in run} for run in runs]
    assert [len(of_one) for of_one in ids] == [1, 1]
    assert ids[0] != ids[1]
    source = SOURCES.get(launcher, "torchrun")
    for run in runs:
        assert sorted(line[1:] for line in run) == [[r, "2", r, source] for r in ("0", "1")]
    ended = {run["run_id"]: run for run in daemon.status()["runs"]}
    for of_one in ids:
        (run_id,) = of_one
        assert ended[run_id]["status"] == "FINISHED"
        assert Counter(rank["state"] for rank in ended[run_id]["ranks"]) == {"finished": 2}


def clean_environment() -> dict[str, str]:
    """Without what a launcher or a job that runs these tests would tell."""
    ours = ("SLURM_", "PBS_", "PMI", "OMPI_", "TRACKER_", "MASTER_")
    return {name: value for name, value in os.environ.items() if not name.startswith(ours)}


def lines_of(launch: subprocess.Popen[str]) -> list[list[str]]:
    out, err = launch.communicate(timeout=120)
    assert launch.returncode == 0, err
    return [line.split(" ", 4) for line in out.splitlines()]

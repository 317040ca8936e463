"""The launch key: shared by the ranks of one launch, and by no other launch."""

import os
import shutil
import subprocess
import sys

import pytest

from tracker_client.identity.launch import agent, launch_key, restarts
from tracker_client.identity.rank import ALONE, HYDRA, OPEN_MPI, RankInfo

BY_ITSELF = RankInfo(0, 1, 0, ALONE)
SLURM_STEP = {"SLURM_JOB_ID": "1", "SLURM_STEP_ID": "2"}


def of_four(source: str) -> RankInfo:
    return RankInfo(1, 4, 1, source)


@pytest.mark.parametrize(
    ("source", "environ", "expected"),
    [
        ("torchrun", {"TRACKER_LAUNCH_ID": "a", "TORCHELASTIC_RUN_ID": "b", "MASTER_ADDR": "h"}, "a"),
        ("torchrun", {"TORCHELASTIC_RUN_ID": "b", **SLURM_STEP}, "b"),
        ("torchrun", {"TORCHELASTIC_RUN_ID": "none", **SLURM_STEP}, "1.2"),
        ("torchrun", {"TORCHELASTIC_RUN_ID": "none", "MASTER_ADDR": "h", "MASTER_PORT": "29"}, "h:29"),
        # a restart of torchrun's ranks may elect another master: the launch is still the same
        ("torchrun", {"TORCHELASTIC_RUN_ID": "b", "MASTER_ADDR": "h", "MASTER_PORT": "29"}, "b"),
        ("PALS", {"PALS_APID": "p", "PBS_JOBID": "j"}, "p"),
        ("PMIx", {"PMIX_NAMESPACE": "n", "SLURM_JOB_ID": "1"}, "n"),
        ("Slurm", SLURM_STEP, "1.2"),
        ("Slurm", {"SLURM_JOB_ID": "1"}, "1"),
        ("PALS", {"PBS_JOBID": "j", "MASTER_ADDR": "h", "MASTER_PORT": "29"}, "j@h:29"),
        ("JSM", {"LSB_JOBID": "l", "PMIX_NAMESPACE": "1", "JSM_NAMESPACE_RANK": "0"}, "l.1"),
        ("RANK, WORLD_SIZE", {"LSB_JOBID": "l"}, "l"),
        ("Flux", {"FLUX_JOB_ID": "f"}, "f"),
        ("RANK, WORLD_SIZE", {"COBALT_JOBID": "c"}, "c"),
    ],
)
def test_the_launch_key_is_what_the_ranks_of_one_launch_share(source, environ, expected):
    assert launch_key(environ, of_four(source)) == (expected, None)


def test_open_mpi_s_ranks_meet_though_slurm_starts_those_of_further_nodes_only():
    first_node = {"PMIX_NAMESPACE": "n", "SLURM_JOB_ID": "1"}
    further_node = {"PMIX_NAMESPACE": "n", **SLURM_STEP}
    assert launch_key(first_node, of_four(OPEN_MPI)) == launch_key(further_node, of_four(OPEN_MPI))


KEY_BY_ITSELF = """
import os
from tracker_client.identity.launch import launch_key
from tracker_client.identity.rank import ALONE, RankInfo
print(launch_key(os.environ, RankInfo(0, 1, 0, ALONE))[0])
"""


@pytest.mark.parametrize("environ", [{}, {"PBS_JOBID": "j"}, {"TRACKER_LAUNCH_ID": "of the whole sweep"}])
def test_a_process_by_itself_is_a_launch_of_its_own_in_whatever_job(environ):
    key, warning = launch_key(environ, BY_ITSELF)
    assert launch_key(environ, BY_ITSELF) == (key, None)  # its trackers are told apart by their order
    assert warning is None
    # by this `run` knows its launch again
    assert environ.get("TRACKER_LAUNCH_ID", "") in key
    command = [sys.executable, "-c", KEY_BY_ITSELF]
    others = {
        subprocess.run(command, env=os.environ | environ, check=True, capture_output=True, text=True).stdout
        for _ in range(2)
    }
    assert len({f"{key}\n", *others}) == 3


def test_an_argument_is_the_key_as_it_stands():
    assert launch_key({"TRACKER_LAUNCH_ID": "b"}, BY_ITSELF, "a") == ("a", None)


def test_several_processes_that_nothing_ties_together_are_warned_about():
    key, warning = launch_key({}, of_four("RANK, WORLD_SIZE"))
    assert key == "default"
    assert "TRACKER_LAUNCH_ID" in warning


PROXY = """
import subprocess, sys
subprocess.run([sys.executable, "-c", sys.argv[-1]], check=True)
"""
PRINT_KEY = """
from tracker_client.identity.launch import launch_key
from tracker_client.identity.rank import HYDRA, RankInfo
print(launch_key({"PBS_JOBID": "j"}, RankInfo(1, 4, 1, HYDRA))[0])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")  # noqa: PTH110
def test_mpich_s_ranks_share_the_address_of_their_mpiexec_also_through_a_shell():
    command = [sys.executable, "-c", PROXY, "--control-port", "node:4711", "--proxy-id", "1"]
    for shell in ([], [shutil.which("sh"), "-c", '"$0" "$@"; true']):
        out = subprocess.run([*shell, *command, PRINT_KEY], check=True, capture_output=True, text=True)
        assert out.stdout == "mpiexec node:4711\n"


def test_mpich_without_its_proxy_in_sight_falls_back_on_the_job():
    assert launch_key({"PBS_JOBID": "j"}, of_four(HYDRA)) == ("j", None)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "2"}, 2),
        ({"TORCHELASTIC_RUN_ID": "none", "TORCHELASTIC_RESTART_COUNT": "x"}, 0),
        ({"TORCHELASTIC_RESTART_COUNT": "2"}, 0),
        ({}, 0),
    ],
)
def test_restarts_are_those_that_torchrun_counts(environ, expected):
    assert restarts(environ) == expected


# ---- torchrun's agent ----------------------------------------------------------------------------

PRINT_AGENT = """
import os
from tracker_client.identity.launch import agent
print(agent(os.environ))
"""
START_RANKS = """
import os, subprocess, sys
from tracker_client.identity.own_process import identity_of
rank = os.environ | {"TORCHELASTIC_RUN_ID": "none"}
print(identity_of(os.getpid()), flush=True)
for wrapper in ([], ["sh", "-c", '"$0" "$@"; true']):
    subprocess.run([*wrapper, sys.executable, "-c", sys.argv[1]], env=rank, check=True)
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="needs /proc")  # noqa: PTH110
def test_torchrun_s_agent_is_the_process_that_gave_the_ranks_their_variables_also_through_a_shell():
    command = [sys.executable, "-c", START_RANKS, PRINT_AGENT]
    first, second = (
        subprocess.run(command, check=True, capture_output=True, text=True).stdout.splitlines()
        for _ in range(2)
    )
    assert len(set(first)) == len(set(second)) == 1
    assert len(first) == 3
    assert first[0] != second[0]


def test_another_launcher_has_no_agent():
    assert agent({"RANK": "0"}) == ""

"""Ranks: each source by itself, their precedence, and the traps that were met for real."""

from types import SimpleNamespace

import pytest

from tracker_client.errors import RankUnknown, SettingsError
from tracker_client.identity.rank import NODES, WORLD_SIZE_VARIABLES, RankOverrides, detect_rank

SBATCH_SHELL = {"SLURM_JOB_ID": "7", "SLURM_PROCID": "0", "SLURM_NTASKS": "8", "SLURM_LOCALID": "0"}
SLURM_STEP = {**SBATCH_SHELL, "SLURM_STEP_ID": "0", "SLURM_PROCID": "3", "SLURM_LOCALID": "1"}
TORCHRUN = {
    "TORCHELASTIC_RUN_ID": "none", "RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_WORLD_SIZE": "2",
    "GROUP_RANK": "1", "GROUP_WORLD_SIZE": "2", "ROLE_RANK": "2", "ROLE_WORLD_SIZE": "4",
    "TORCHELASTIC_RESTART_COUNT": "0", "MASTER_ADDR": "node0", "MASTER_PORT": "29500",
}  # fmt: skip
DEEPSPEED = {
    "RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "LOCAL_SIZE": "2", "CROSS_SIZE": "2",
    "MASTER_ADDR": "node0", "MASTER_PORT": "29500",
}  # fmt: skip
RAY_TRAIN = {
    "RANK": "2", "WORLD_SIZE": "4", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1", "NODE_RANK": "2",
    "MASTER_ADDR": "10.0.0.1", "MASTER_PORT": "40001",
}  # fmt: skip
OPEN_MPI = {
    "OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "2",
    "OMPI_COMM_WORLD_LOCAL_SIZE": "4", "OMPI_COMM_WORLD_NODE_RANK": "2", "OMPI_UNIVERSE_SIZE": "8",
    "PMIX_RANK": "3", "PMIX_NAMESPACE": "2013986817", "PMIX_ID": "2013986817.3",
}  # fmt: skip
PALS = {
    "PALS_RANKID": "5", "PALS_LOCAL_RANKID": "1", "PALS_LOCAL_SIZE": "4", "PALS_NODEID": "1",
    "PALS_APID": "3f6a", "PMI_RANK": "5", "PMI_SIZE": "12", "PMI_LOCAL_RANK": "1", "PMI_LOCAL_SIZE": "4",
}  # fmt: skip
JSM = {
    "JSM_NAMESPACE_RANK": "1", "JSM_NAMESPACE_SIZE": "6", "JSM_NAMESPACE_LOCAL_RANK": "1",
    "JSM_NAMESPACE_LOCAL_SIZE": "6", "PMIX_RANK": "1", "PMIX_NAMESPACE": "1",
}  # fmt: skip
FLUX = {
    "FLUX_TASK_RANK": "2", "FLUX_JOB_SIZE": "3", "FLUX_TASK_LOCAL_ID": "2", "FLUX_JOB_NNODES": "1",
    "FLUX_JOB_ID": "f3x", "PMI_FD": "11", "PMI_RANK": "2", "PMI_SIZE": "3",
}  # fmt: skip
HYDRA = {"PMI_RANK": "3", "PMI_SIZE": "4", "PMI_FD": "8", "MPI_LOCALRANKID": "3", "MPI_LOCALNRANKS": "4"}


def found(environ, modules=None, **overrides):
    info = detect_rank(environ, modules or {}, RankOverrides(**overrides))
    return info.rank, info.world_size, info.local_rank, info.source


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (
            {"TRACKER_RANK": "1", "TRACKER_WORLD_SIZE": "2", "TRACKER_LOCAL_RANK": "1"},
            (1, 2, 1, "TRACKER_RANK"),
        ),
        (TORCHRUN, (2, 4, 1, "torchrun")),
        (DEEPSPEED, (2, 4, 1, "RANK, WORLD_SIZE, LOCAL_RANK")),
        (RAY_TRAIN, (2, 4, 0, "RANK, WORLD_SIZE, LOCAL_RANK")),
        (OPEN_MPI, (3, 4, 2, "Open MPI")),
        (PALS, (5, 12, 1, "PALS")),
        ({"PMI_RANK": "5", "PMI_SIZE": "12", "PALS_LOCAL_RANKID": "1"}, (5, 12, 1, "PALS")),
        (JSM, (1, 6, 1, "JSM")),
        (FLUX, (2, 3, 2, "Flux")),
        (HYDRA, (3, 4, 3, "MPICH")),
        ({"PMIX_RANK": "2"}, (2, None, 0, "PMIx")),
        ({**SLURM_STEP, "PMIX_RANK": "3", "PMIX_NAMESPACE": "slurm.pmix.7.0"}, (3, 8, 1, "PMIx")),
        (SLURM_STEP, (3, 8, 1, "Slurm")),
        ({**SLURM_STEP, "SLURM_STEP_NUM_TASKS": "4"}, (3, 4, 1, "Slurm")),
        ({"RANK": "1", "WORLD_SIZE": "2"}, (1, 2, 0, "RANK, WORLD_SIZE")),
        ({}, (0, 1, 0, "one process")),
    ],
)
def test_each_source_is_taken_whole(environ, expected):
    assert found(environ) == expected


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({**SBATCH_SHELL, **TORCHRUN}, (2, 4, 1, "torchrun")),
        ({**SBATCH_SHELL, **OPEN_MPI}, (3, 4, 2, "Open MPI")),
        # hydra inside Slurm starts its proxies through srun: all ranks see PROCID 0 with a step
        ({**SLURM_STEP, "SLURM_PROCID": "0", **HYDRA}, (3, 4, 3, "MPICH")),
        (SBATCH_SHELL, (0, 1, 0, "one process")),
        ({**OPEN_MPI, "PMIX_RANK": "3", "PMIX_NAMESPACE": "prterun-1"}, (3, 4, 2, "Open MPI")),
        # prterun's helpers carry Slurm's variables, which say nothing of the ranks
        (
            {**SLURM_STEP, "SLURM_PROCID": "0", "PMIX_RANK": "0", "PMIX_NAMESPACE": "prte-1"},
            (0, None, 0, "PMIx"),
        ),
        # jsrun sets Open MPI's for its own MPI, with the same numbers
        ({**OPEN_MPI, **JSM}, (3, 4, 2, "Open MPI")),
        ({**OPEN_MPI, "RANK": "1", "WORLD_SIZE": "2"}, (3, 4, 2, "Open MPI")),
        ({**TORCHRUN, **OPEN_MPI}, (2, 4, 1, "torchrun")),
        # a number that cannot be a rank is no source
        ({**TORCHRUN, "RANK": "x", **OPEN_MPI}, (3, 4, 2, "Open MPI")),
        ({**TORCHRUN, "RANK": "4", **OPEN_MPI}, (3, 4, 2, "Open MPI")),
    ],
)
def test_traps_do_not_mix_sources(environ, expected):
    assert found(environ) == expected


LIGHTNING = {"NODE_RANK": "0", "LOCAL_RANK": "1", "WORLD_SIZE": "4", "MASTER_ADDR": "h", "MASTER_PORT": "1"}
NODE_1 = {**LIGHTNING, "NODE_RANK": "1"}


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        (LIGHTNING, (1, 4, 1, NODES)),
        # `srun --pty bash`, and then `python train.py`: every process sees the shell's step
        ({**LIGHTNING, "SLURM_STEP_ID": "0", "SLURM_PROCID": "0", "SLURM_NTASKS": "1"}, (1, 4, 1, NODES)),
        ({**LIGHTNING, "PMI_RANK": "0", "PMI_SIZE": "1"}, (1, 4, 1, NODES)),
        ({**NODE_1, "LOCAL_WORLD_SIZE": "2"}, (3, 4, 1, NODES)),
        ({**NODE_1, "NNODES": "2"}, (3, 4, 1, NODES)),
        ({**NODE_1, "NUM_NODES": "2"}, (3, 4, 1, NODES)),
        # a launcher that has started as many processes knows their ranks itself
        ({**LIGHTNING, **OPEN_MPI, "LOCAL_RANK": "0"}, (3, 4, 2, "Open MPI")),
        ({**NODE_1, **TORCHRUN}, (2, 4, 1, "torchrun")),
    ],
)
def test_lightning_s_ranks_follow_from_node_and_local_rank_where_the_devices_are_known(environ, expected):
    assert found(environ) == expected


@pytest.mark.parametrize(
    "environ",
    [
        NODE_1,
        {**NODE_1, "NNODES": "3"},
        {"NODE_RANK": "1", "MASTER_ADDR": "h"},  # before Lightning has started its processes
    ],
)
def test_on_a_further_node_the_rank_is_unknown_until_torch_distributed_is_initialised(environ):
    with pytest.raises(RankUnknown, match=r"NODE_RANK=1 .*once torch.distributed is initialised"):
        found(environ)
    assert found(environ, torch_distributed(initialised=True))[:2] == (6, 8)


def torch_distributed(*, initialised):
    return {
        "torch.distributed": SimpleNamespace(
            is_available=lambda: True,
            is_initialized=lambda: initialised,
            get_rank=lambda: 6,
            get_world_size=lambda: 8,
        )
    }


def test_an_initialised_torch_distributed_comes_before_the_launcher():
    assert found({**TORCHRUN}, torch_distributed(initialised=True)) == (6, 8, 1, "torch.distributed")
    assert found({**TORCHRUN}, torch_distributed(initialised=False)) == (2, 4, 1, "torchrun")


def test_arguments_come_before_everything():
    modules = torch_distributed(initialised=True)
    assert found(TORCHRUN, modules, rank=1, world_size=3, local_rank=1) == (1, 3, 1, "argument")
    assert found({**TORCHRUN, "TRACKER_RANK": "0"}, rank=1)[:2] == (1, None)


def test_a_rank_alone_takes_the_size_of_a_launcher_that_agrees():
    assert found(TORCHRUN, rank=2) == (2, 4, 1, "argument")
    assert found(TORCHRUN, rank=3) == (3, None, 0, "argument")
    assert found({}, rank=0) == (0, None, 0, "argument")


@pytest.mark.parametrize(
    "environ",
    [
        # each source's size alone, as where a wrapper has dropped the rank
        *({size: "4"} for size in WORLD_SIZE_VARIABLES),
        {"RANK": "x", "WORLD_SIZE": "4", "LOCAL_RANK": "0"},
        {"RANK": "4", "WORLD_SIZE": "4"},
        {"SLURM_STEP_ID": "0", "SLURM_NTASKS": "2"},
        {"PMI_SIZE": "2", "PMI_RANK": "-1"},
    ],
)
def test_several_processes_without_a_rank_are_an_error_that_names_what_was_looked_at(environ):
    with pytest.raises(RankUnknown) as caught:
        detect_rank(environ, {})
    assert "OMPI_COMM_WORLD_RANK" in str(caught.value)
    assert "TRACKER_RANK" in str(caught.value)
    assert any(f"{name}={value}" in str(caught.value) for name, value in environ.items())


@pytest.mark.parametrize(
    "environ",
    [{"TRACKER_RANK": "one"}, {"TRACKER_RANK": "2", "TRACKER_WORLD_SIZE": "2"}, {"TRACKER_RANK": "-1"}],
)
def test_unusable_overrides_are_errors(environ):
    with pytest.raises(SettingsError):
        detect_rank(environ, {})


def test_bare_variables_are_taken_with_a_warning():
    assert "LOCAL_RANK" in detect_rank({"RANK": "1", "WORLD_SIZE": "2"}, {}).warning
    assert detect_rank(TORCHRUN, {}).warning is None

"""Finds rank, world size and local rank of this process, all from one source.

The first source that fits is used for all three, since a mixture of sources gives wrong answers: under Open
MPI inside an sbatch script, for example, every process sees ``SLURM_PROCID=0``. The sources, in order:

 1. arguments, or TRACKER_RANK, TRACKER_WORLD_SIZE, TRACKER_LOCAL_RANK
 2. torch.distributed, if the script has already initialised it
 3. torchrun (TORCHELASTIC_RUN_ID is set): RANK, WORLD_SIZE, LOCAL_RANK
 4. RANK, WORLD_SIZE and LOCAL_RANK, all three
 5. NODE_RANK, LOCAL_RANK and WORLD_SIZE (Lightning's own launcher), unless another launcher has started as
    many processes: NODE_RANK × devices + LOCAL_RANK, if LOCAL_WORLD_SIZE or the number of nodes (NNODES,
    NUM_NODES) gives the devices of a node; on node 0 LOCAL_RANK alone
 6. Open MPI: OMPI_COMM_WORLD_RANK, _SIZE, _LOCAL_RANK
 7. Cray PALS: PALS_RANKID (or PMI_RANK beside another PALS variable), PMI_SIZE, PALS_LOCAL_RANKID
 8. JSM_NAMESPACE_RANK, _SIZE, _LOCAL_RANK; FLUX_TASK_RANK, FLUX_JOB_SIZE, FLUX_TASK_LOCAL_ID
 9. MPICH and hydra: PMI_RANK, PMI_SIZE, MPI_LOCALRANKID
10. PMIX_RANK (its size only where Slurm itself is the PMIx server)
11. Slurm, inside a step: SLURM_PROCID, SLURM_STEP_NUM_TASKS or SLURM_NTASKS, SLURM_LOCALID
12. RANK and WORLD_SIZE alone, with a warning
13. one process: rank 0 of 1

A source fits if its rank is a number from 0 and below its world size. If none fits, but a variable shows more
than one process, the rank is unknown. That is an error: a guess of 0 would make every process rank 0.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from tracker_client.errors import RankUnknown, SettingsError

WORLD_SIZE_VARIABLES = (
    "TRACKER_WORLD_SIZE",
    "WORLD_SIZE",
    "OMPI_COMM_WORLD_SIZE",
    "PMI_SIZE",
    "JSM_NAMESPACE_SIZE",
    "FLUX_JOB_SIZE",
)
LOCAL_SIZE_VARIABLES = (
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "PALS_LOCAL_SIZE",
    "JSM_NAMESPACE_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
)
"""Variables with the number of this host's ranks."""
ALONE = "one process"
HYDRA = "MPICH"
OPEN_MPI = "Open MPI"
NODES = "NODE_RANK, LOCAL_RANK"
"""Sources that decide how the launch key is made."""
NODES_VARIABLES = ("NNODES", "NUM_NODES")
RANK_VARIABLES = (
    "TRACKER_RANK",
    "RANK",
    "OMPI_COMM_WORLD_RANK",
    "PALS_RANKID",
    "JSM_NAMESPACE_RANK",
    "FLUX_TASK_RANK",
    "PMI_RANK",
    "PMIX_RANK",
    "SLURM_PROCID",
)


@dataclass(frozen=True)
class RankInfo:
    """The rank of this process.

    Attributes:
        rank: from 0.
        world_size: the number of ranks; None if the source does not give it.
        local_rank: the rank among the processes of this host, from 0.
        source: the source of these, for messages.
        warning: a sentence for the user; None if there is none.
    """

    rank: int
    world_size: int | None
    local_rank: int
    source: str
    warning: str | None = None


@dataclass(frozen=True)
class RankOverrides:
    """The ranks that the user's arguments give; None for an argument that is not given."""

    rank: int | None = None
    world_size: int | None = None
    local_rank: int | None = None


def detect_rank(
    environ: Mapping[str, str],
    modules: Mapping[str, Any],
    overrides: RankOverrides | None = None,
) -> RankInfo:
    """Find the rank from ``environ``, the imported ``modules`` and the user's ``overrides``.

    A rank that the user gives without a world size gets the launcher's world size and local rank, if the
    launcher gives the same rank.

    Raises:
        RankUnknown: several processes run, and no source gives the rank.
        SettingsError: a TRACKER_* variable or an argument is not a usable number.
    """
    given = _from_overrides(environ, overrides or RankOverrides())
    if given is None:
        return _from_launcher(environ, modules) or _alone(environ)
    if given.world_size is not None:
        return given
    launcher = _from_launcher(environ, modules)
    if launcher is None or launcher.rank != given.rank:
        return given
    return replace(given, world_size=launcher.world_size, local_rank=launcher.local_rank)


def _from_overrides(environ: Mapping[str, str], overrides: RankOverrides) -> RankInfo | None:
    rank = _given(environ, "TRACKER_RANK", overrides.rank)
    if rank is None:
        return None
    world_size = _given(environ, "TRACKER_WORLD_SIZE", overrides.world_size)
    local_rank = _given(environ, "TRACKER_LOCAL_RANK", overrides.local_rank)
    if world_size is not None and rank >= world_size:
        raise SettingsError(f"rank {rank} does not exist among {world_size} ranks (they count from 0)")
    source = "TRACKER_RANK" if overrides.rank is None else "argument"
    return RankInfo(rank, world_size, local_rank or 0, source)


def _given(environ: Mapping[str, str], variable: str, argument: int | None) -> int | None:
    text = environ.get(variable, "") if argument is None else str(argument)
    if not text:
        return None
    number = _number(text)
    if number is None:
        what = variable if argument is None else variable.removeprefix("TRACKER_").lower()
        raise SettingsError(f"{what} is {text!r}; it must be a whole number from 0")
    return number


def _from_launcher(environ: Mapping[str, str], modules: Mapping[str, Any]) -> RankInfo | None:
    distributed = _from_torch_distributed(environ, modules)
    if distributed is not None:
        return distributed
    for name, source in _SOURCES:
        found = source(environ)
        if found is not None and (found.world_size is None or found.rank < found.world_size):
            return replace(found, source=name)
    return None


def _from_torch_distributed(environ: Mapping[str, str], modules: Mapping[str, Any]) -> RankInfo | None:
    distributed = modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    local_rank = _number(environ.get("LOCAL_RANK", "")) or 0
    return RankInfo(distributed.get_rank(), distributed.get_world_size(), local_rank, "torch.distributed")


def _torchrun(environ: Mapping[str, str]) -> RankInfo | None:
    if "TORCHELASTIC_RUN_ID" not in environ:
        return None
    return _read(environ, "RANK", "WORLD_SIZE", "LOCAL_RANK")


def _three_variables(environ: Mapping[str, str]) -> RankInfo | None:
    if "LOCAL_RANK" not in environ:
        return None
    return _read(environ, "RANK", "WORLD_SIZE", "LOCAL_RANK")


def launched_by_script(environ: Mapping[str, str]) -> bool:
    """Return True if a process has the variables of Lightning's launcher, or of one that works like it.

    The script's first process sets the variables, and starts the further processes of its node.
    """
    numbers = (_number(environ.get(name, "")) for name in ("NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"))
    return None not in numbers and "RANK" not in environ and not _has_launcher(environ)


def _has_launcher(environ: Mapping[str, str]) -> bool:
    """Return True if another launcher has started as many processes as WORLD_SIZE says."""
    sizes = ["OMPI_COMM_WORLD_SIZE", "PMI_SIZE", "JSM_NAMESPACE_SIZE", "FLUX_JOB_SIZE"]
    if "SLURM_STEP_ID" in environ:
        sizes.append(_slurm_size(environ))
    return any(_number(environ.get(name, "")) == _number(environ["WORLD_SIZE"]) for name in sizes)


def _nodes(environ: Mapping[str, str]) -> RankInfo | None:
    if not launched_by_script(environ):
        return None
    node, local_rank, size = (int(environ[name]) for name in ("NODE_RANK", "LOCAL_RANK", "WORLD_SIZE"))
    devices = devices_of_node(environ)
    if devices is None and node > 0:
        return None
    return RankInfo(node * (devices or 0) + local_rank, size, local_rank, NODES)


def devices_of_node(environ: Mapping[str, str]) -> int | None:
    """Return the number of processes of each node; None if it is not known."""
    if local_size := _number(environ.get("LOCAL_WORLD_SIZE", "")):
        return local_size
    counts = (_number(environ.get(name, "")) for name in NODES_VARIABLES)
    nodes = next(filter(None, counts), None)
    size = _number(environ.get("WORLD_SIZE", ""))
    return size // nodes if nodes and size and size % nodes == 0 else None


def _open_mpi(environ: Mapping[str, str]) -> RankInfo | None:
    return _read(environ, "OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")


def _pals(environ: Mapping[str, str]) -> RankInfo | None:
    if not any(name.startswith("PALS_") for name in environ):
        return None
    rank = "PALS_RANKID" if "PALS_RANKID" in environ else "PMI_RANK"
    return _read(environ, rank, "PMI_SIZE", "PALS_LOCAL_RANKID", size_required=False)


def _jsm(environ: Mapping[str, str]) -> RankInfo | None:
    return _read(environ, "JSM_NAMESPACE_RANK", "JSM_NAMESPACE_SIZE", "JSM_NAMESPACE_LOCAL_RANK")


def _flux(environ: Mapping[str, str]) -> RankInfo | None:
    return _read(environ, "FLUX_TASK_RANK", "FLUX_JOB_SIZE", "FLUX_TASK_LOCAL_ID")


def _hydra(environ: Mapping[str, str]) -> RankInfo | None:
    return _read(environ, "PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")


def _pmix(environ: Mapping[str, str]) -> RankInfo | None:
    # The variables of the Slurm step describe the same processes only if Slurm's own plugin is the PMIx
    # server. Under prterun they describe its helper processes, one per node.
    if environ.get("PMIX_NAMESPACE", "").startswith("slurm.pmix"):
        return _read(environ, "PMIX_RANK", _slurm_size(environ), "SLURM_LOCALID", size_required=False)
    return _read(environ, "PMIX_RANK", "", "", size_required=False)


def _slurm(environ: Mapping[str, str]) -> RankInfo | None:
    # Without a step this is the batch script's own shell, where SLURM_PROCID is 0 for every process.
    if "SLURM_STEP_ID" not in environ:
        return None
    return _read(environ, "SLURM_PROCID", _slurm_size(environ), "SLURM_LOCALID")


def _slurm_size(environ: Mapping[str, str]) -> str:
    return "SLURM_STEP_NUM_TASKS" if "SLURM_STEP_NUM_TASKS" in environ else "SLURM_NTASKS"


def _two_variables(environ: Mapping[str, str]) -> RankInfo | None:
    found = _read(environ, "RANK", "WORLD_SIZE", "")
    if found is None:
        return None
    warning = "rank taken from RANK and WORLD_SIZE without LOCAL_RANK: no launcher was recognised"
    return replace(found, warning=warning)


_SOURCES: tuple[tuple[str, Callable[[Mapping[str, str]], RankInfo | None]], ...] = (
    ("torchrun", _torchrun),
    ("RANK, WORLD_SIZE, LOCAL_RANK", _three_variables),
    (NODES, _nodes),
    (OPEN_MPI, _open_mpi),
    ("PALS", _pals),
    ("JSM", _jsm),
    ("Flux", _flux),
    (HYDRA, _hydra),
    ("PMIx", _pmix),
    ("Slurm", _slurm),
    ("RANK, WORLD_SIZE", _two_variables),
)


def _alone(environ: Mapping[str, str]) -> RankInfo:
    sizes = list(WORLD_SIZE_VARIABLES)
    if "SLURM_STEP_ID" in environ:
        sizes.append(_slurm_size(environ))
    several = [name for name in sizes if (_number(environ.get(name, "")) or 0) > 1]
    on_further_node = "MASTER_ADDR" in environ and (_number(environ.get("NODE_RANK", "")) or 0) > 0
    if on_further_node:
        several.append("NODE_RANK")
    if not several:
        return RankInfo(0, 1, 0, ALONE)
    seen = [f"{name}={environ[name]!r}" for name in RANK_VARIABLES if name in environ]
    evidence = ", ".join(f"{name}={environ[name]}" for name in several)
    later = " Or set up once torch.distributed is initialised, which knows it." if on_further_node else ""
    raise RankUnknown(
        f"{evidence} shows several processes, but the rank of this one cannot be found. "
        f"Looked at torch.distributed and {', '.join(RANK_VARIABLES)}"
        f" (set: {', '.join(seen) or 'none'}). Pass rank=... to setup_tracker or set TRACKER_RANK.{later}"
    )


def _read(
    environ: Mapping[str, str], rank: str, size: str, local_rank: str, *, size_required: bool = True
) -> RankInfo | None:
    found = _number(environ.get(rank, ""))
    world_size = _number(environ.get(size, ""))
    if found is None or (world_size is None and size_required):
        return None
    return RankInfo(found, world_size, _number(environ.get(local_rank, "")) or 0, rank)


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdigit() else None

"""The launch key: what all ranks of one launch share, and no other launch has.

It is made without any communication, from what the launcher tells each rank:

1. the ``launch_id`` argument, or TRACKER_LAUNCH_ID (which ``tracker-daemon run`` sets);
2. TORCHELASTIC_RUN_ID, unless it is "none". Alone: when torchrun restarts its ranks, MASTER_ADDR and
   MASTER_PORT may change, and the launch is still the same;
3. what the launcher of the rank says: PMIX_NAMESPACE under Open MPI (whose ranks on further nodes of a
   Slurm job see SLURM_STEP_ID, while those on the first do not), PALS_APID under PALS, the address of
   ``mpiexec`` under MPICH's hydra, which sets no variable for it, LSB_JOBID with PMIX_NAMESPACE
   under jsrun;
4. SLURM_JOB_ID with SLURM_STEP_ID, PALS_APID, PMIX_NAMESPACE, else the scheduler's job;
   with MASTER_ADDR and MASTER_PORT where those are set.

A process that is alone is a launch of its own, whatever job it runs in: trials of a sweep share their
job, their shell and their environment, and are different runs. To go on with an earlier run it names
that run's id.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator, Mapping
from pathlib import Path

from tracker_client.identity.rank import ALONE, HYDRA, OPEN_MPI, RankInfo

_JOBS = (
    "PALS_APID", "PMIX_NAMESPACE", "PBS_JOBID", "SLURM_JOB_ID", "LSB_JOBID", "FLUX_JOB_ID", "COBALT_JOBID",
)  # fmt: skip
_ANCESTORS_MAX = 32


def launch_key(
    environ: Mapping[str, str], info: RankInfo, given: str | None = None
) -> tuple[str, str | None]:
    """What all ranks of one launch share and no other launch has, and a warning where that is doubtful."""
    if given:
        return given, None
    explicit = environ.get("TRACKER_LAUNCH_ID", "")
    if info.source == ALONE:
        return "/".join(filter(None, (explicit, uuid.uuid4().hex))), None
    key = explicit or _torchrun_id(environ) or _launcher_key(environ, info)
    if key:
        return key, None
    if info.world_size == 1:
        return uuid.uuid4().hex, None
    warning = (
        "nothing tells this launch from another on the same daemon; "
        "set TRACKER_LAUNCH_ID to a value that all of its ranks share"
    )
    return "default", warning


def restarts(environ: Mapping[str, str]) -> int:
    """How often torchrun's agent has started its ranks again; 0 under every other launcher."""
    text = environ.get("TORCHELASTIC_RESTART_COUNT", "") if "TORCHELASTIC_RUN_ID" in environ else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def _torchrun_id(environ: Mapping[str, str]) -> str:
    torchrun = environ.get("TORCHELASTIC_RUN_ID", "")
    return "" if torchrun == "none" else torchrun


def _launcher_key(environ: Mapping[str, str], info: RankInfo) -> str:
    address = environ.get("MASTER_ADDR", "")
    rendezvous = f"{address}:{environ.get('MASTER_PORT', '')}" if address else ""
    return "@".join(filter(None, (_launcher_id(environ, info), rendezvous)))


def _launcher_id(environ: Mapping[str, str], info: RankInfo) -> str:
    if "JSM_NAMESPACE_RANK" in environ:  # jsrun's namespaces count from 1 in each job
        return ".".join(filter(None, (environ.get("LSB_JOBID"), environ.get("PMIX_NAMESPACE"))))
    if info.source == OPEN_MPI and environ.get("PMIX_NAMESPACE"):
        return environ["PMIX_NAMESPACE"]
    if info.source == HYDRA and (address := _hydra_address()):
        return address
    if environ.get("SLURM_JOB_ID") and environ.get("SLURM_STEP_ID"):
        return f"{environ['SLURM_JOB_ID']}.{environ['SLURM_STEP_ID']}"
    return next((environ[name] for name in _JOBS if environ.get(name)), "")


def _hydra_address() -> str | None:
    """Where the ``mpiexec`` of this rank listens: each node's hydra proxy is told it in its arguments."""
    for arguments in _ancestors():
        if "--control-port" in arguments[:-1]:
            return "mpiexec " + arguments[arguments.index("--control-port") + 1]
    return None


def _ancestors() -> Iterator[list[str]]:
    """The command lines of this process's parent, its parent and so on, where /proc tells them."""
    pid = os.getppid()
    for _ in range(_ANCESTORS_MAX):
        process = Path("/proc", str(pid))
        try:
            yield process.joinpath("cmdline").read_text(errors="replace").split("\0")
            # The name in parentheses may itself contain any character.
            pid = int(process.joinpath("stat").read_text(errors="replace").rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return
        if pid <= 1:
            return

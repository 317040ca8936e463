"""Derives the launch key: a text that all ranks of one launch share, and no other launch has.

The key is made without communication, from the first of these that is set:

1. the ``launch_id`` argument, or TRACKER_LAUNCH_ID (which ``tracker-daemon run`` sets);
2. TORCHELASTIC_RUN_ID, unless it is "none". MASTER_ADDR and MASTER_PORT are not part of the key then: they
   may change when torchrun restarts its ranks, and the launch stays the same;
3. the identity that the rank's launcher sets:
   PMIX_NAMESPACE under Open MPI (its ranks on the first node of a Slurm job do not see SLURM_STEP_ID, those
   on further nodes do); PALS_APID under PALS; the address of ``mpiexec`` under MPICH's hydra, which sets no
   variable for it; LSB_JOBID with PMIX_NAMESPACE under jsrun;
4. SLURM_JOB_ID with SLURM_STEP_ID, PALS_APID, PMIX_NAMESPACE, else the scheduler's job.

In cases 3 and 4 the key also has MASTER_ADDR and MASTER_PORT, if they are set.

Lightning's own launcher works from inside the script: the first process of a node starts the others, with
NODE_RANK, LOCAL_RANK and WORLD_SIZE. Before that it is a process by itself, and may have a tracker already.
So the launch key of all of them is that of the first process, which is the parent of the others. If there
are several nodes, it is the address of the first node, MASTER_ADDR and MASTER_PORT.

A single process is a launch of its own, whatever job it runs in: trials of a sweep share their job, their
shell and their environment, but are different runs. To continue an earlier run, it names that run's id.
The same holds for a child process of a rank (``tracker_client.identity.workers``), even with ``launch_id``.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping

from tracker_client.identity.own_process import (
    command_line,
    first_environment,
    identity_of,
    process_id,
)
from tracker_client.identity.rank import (
    ALONE,
    HYDRA,
    NODES,
    OPEN_MPI,
    RankInfo,
    devices_of_node,
    launched_by_script,
)
from tracker_protocol.host_processes import ancestors

_JOBS = (
    "PALS_APID", "PMIX_NAMESPACE", "PBS_JOBID", "SLURM_JOB_ID", "LSB_JOBID", "FLUX_JOB_ID", "COBALT_JOBID",
)  # fmt: skip


def launch_key(
    environ: Mapping[str, str], info: RankInfo, given: str | None = None
) -> tuple[str, str | None]:
    """Return the launch key; and a warning if other launches on the same daemon may have the same key."""
    if given:
        return given, None
    explicit = environ.get("TRACKER_LAUNCH_ID", "")
    if (first := first_process(environ, info)) is not None:
        return "/".join(filter(None, (explicit, process_key(first)))), None
    key = explicit or _torchrun_id(environ) or _launcher_key(environ, info)
    if key:
        return key, None
    if info.world_size == 1:
        return process_key(os.getpid()), None
    warning = (
        "nothing distinguishes this launch from another one on the same daemon; "
        "set TRACKER_LAUNCH_ID to a value that all of its ranks share"
    )
    return "default", warning


def first_process(environ: Mapping[str, str], info: RankInfo) -> int | None:
    """Return the pid of the process whose key is the launch's; None if a launcher tells the launch.

    It is this process, if that is by itself, or the process of the script that has started the others.
    """
    if info.source == ALONE:
        return os.getpid()
    if not launched_by_script(environ):
        return None
    own = first_environment(os.getpid())
    is_first = environ["LOCAL_RANK"] == "0" if own is None else "LOCAL_RANK" not in own
    first = os.getpid() if is_first else os.getppid()
    return None if _spans_nodes(environ, info, first) else first


def _spans_nodes(environ: Mapping[str, str], info: RankInfo, first: int) -> bool:
    """Return True if the launch has several nodes, as far as a process on one of them can see."""
    if environ["NODE_RANK"] != "0":
        return True
    if info.source == NODES:
        devices = devices_of_node(environ)
        return devices is not None and (info.world_size or 0) > devices
    # For a single node the launcher chooses the address itself; for several nodes the user gives it.
    return "MASTER_ADDR" in (first_environment(first) or {})


def restarts(environ: Mapping[str, str]) -> int:
    """Return how often torchrun's agent has restarted its ranks; 0 under every other launcher."""
    text = environ.get("TORCHELASTIC_RESTART_COUNT", "") if "TORCHELASTIC_RUN_ID" in environ else ""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 10 else 0


def process_key(pid: int) -> str:
    """Return the launch key of a process that no launcher has started: this one, or another of this host."""
    return f"process {identity_of(pid) or _unseen(pid)}"


def _unseen(pid: int) -> str:
    """Name a process of a host that does not show its processes: only this process can be told apart."""
    host = socket.gethostname()
    return f"{host} {pid} {process_id().hex()}" if pid == os.getpid() else f"{host} {pid}"


def agent(environ: Mapping[str, str]) -> str:
    """Return the identity of torchrun's agent that started this process; "" if there is none in sight.

    The agent is the nearest ancestor that was started without the variables that an agent gives its ranks.
    """
    if "TORCHELASTIC_RUN_ID" not in environ:
        return ""
    for ancestor in ancestors():
        started_with = first_environment(ancestor.pid)
        if started_with is None:
            return ""
        if "TORCHELASTIC_RUN_ID" not in started_with:
            return identity_of(ancestor.pid) or ""
    return ""


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
    """Return the address of this rank's ``mpiexec``, from the arguments of the node's hydra proxy."""
    for arguments in (command_line(ancestor.pid) for ancestor in ancestors()):
        if "--control-port" in arguments[:-1]:
            return "mpiexec " + arguments[arguments.index("--control-port") + 1]
    return None

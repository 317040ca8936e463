"""Launchers: programs that start ranks, and report a failure of any rank in their own exit status.

Only through such programs does a command's exit status 0 say that all of its ranks ended well. A shell, a
pipe and an unknown program may hide a failure.
"""

from __future__ import annotations

from collections.abc import Sequence

_LAUNCHERS = frozenset(
    (
        "torchrun", "torch.distributed.run", "torch.distributed.launch", "torch.distributed.elastic",
        "accelerate", "accelerate.commands.launch", "deepspeed", "deepspeed.launcher.launch",
        "deepspeed.launcher.runner", "mpiexec", "mpirun", "mpiexec.hydra", "mpiexec.mpich", "mpiexec.openmpi",
        "mpirun.openmpi", "mpirun.mpich", "orterun", "prterun", "hydra_pmi_proxy", "hydra_bstrap_proxy",
        "orted", "prted", "srun", "jsrun", "aprun", "flux", "flux-broker",
    )
)  # fmt: skip
_WRAPPERS = frozenset(
    ("tracker-daemon", "tracker_daemon", "timeout", "time", "uv", "poetry", "pdm", "nsys", "ncu")
)
"""Programs that start one program, and end with its exit status."""
_GATEWAYS = frozenset(("sshd", "slurmstepd", "pbs_mom", "palsd", "rsh", "in.rshd"))
"""Programs by which a launcher starts processes that are not its children, on other hosts for example."""


def is_launcher(program: str) -> bool:
    """Return True if ``program`` starts ranks and reports their failures."""
    return program in _LAUNCHERS


def _reports(program: str) -> bool:
    return program in _LAUNCHERS or program in _WRAPPERS


def reports_failures(programs: Sequence[str], command: str) -> bool:
    """Return True if ``command`` fails whenever a process with the ancestors ``programs`` fails.

    The nearest ancestor is the first. The last one is a child of the command's starter, unless a gateway
    comes before it.
    """
    for program in programs:
        if program.partition(":")[0] in _GATEWAYS:
            return _reports(command)
        if not _reports(program):
            return False
    return bool(programs)

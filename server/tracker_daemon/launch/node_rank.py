"""Which node of a job this is, where one command runs on each: the first has the daemon."""

from __future__ import annotations

from collections.abc import Mapping

VARIABLES = (
    "NODE_RANK",
    "GROUP_RANK",
    "SLURM_NODEID",
    "PALS_NODEID",
    "OMPI_COMM_WORLD_RANK",  # these two launchers tell processes, not nodes: one `run` per process is as many
    "PALS_RANKID",
    "PMI_RANK",
)


def further_node(environ: Mapping[str, str]) -> str | None:
    """What says that this is not the first node, as ``SLURM_NODEID=1``; None where nothing does."""
    for name in VARIABLES:
        text = environ.get(name, "")
        if text.isascii() and text.isdigit() and int(text) > 0:
            return f"{name}={text}"
    return None

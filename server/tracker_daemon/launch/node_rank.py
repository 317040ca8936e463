"""The rank of this node, if one ``run`` is started on each node: the first has the daemon."""

from __future__ import annotations

from collections.abc import Mapping

VARIABLES = (
    "NODE_RANK",
    "GROUP_RANK",
    "SLURM_NODEID",
    "PALS_NODEID",
    "OMPI_COMM_WORLD_RANK",  # these launchers number processes; with one `run` a node that is the node
    "PALS_RANKID",
    "PMI_RANK",
)


def further_node(environ: Mapping[str, str]) -> str | None:
    """Return the variable that shows a node above 0, as ``SLURM_NODEID=1``; None if none does."""
    for name in VARIABLES:
        text = environ.get(name, "")
        if text.isascii() and text.isdigit() and int(text) > 0:
            return f"{name}={text}"
    return None

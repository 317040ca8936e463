"""The facts about a training script that a W&B run shows in its configuration, from its beginning.

A rank sends them as texts (``Process.environment``). Filters and groups of runs in W&B need numbers.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime

_NAMES = {
    "host": "hostname",
    "torch_version": "torch_version",
    "python_version": "python_version",
    "working_directory": "working_directory",
    "backend": "pytorch_backend",
    "device": "device_type",
    "scheduler": "scheduler",
    "jobid": "jobid",
    "git_commit": "git_commit",
    "git_branch": "git_branch",
}
"""Texts, with their names in the configuration."""
_NUMBERS = ("world_size", "num_nodes", "ranks_per_node")


def wandb_config(facts: Mapping[str, str], begun: datetime) -> dict[str, str | int]:
    """Return the configuration that describes the script and the time when its run began.

    ``machine`` is the cluster's name, or that of the host if there is none.
    """
    texts = {name: facts[fact] for fact, name in _NAMES.items() if facts.get(fact)}
    numbers = {name: int(facts[name]) for name in _NUMBERS if facts.get(name, "").isdecimal()}
    machine = facts.get("cluster") or facts.get("host")
    return {
        **texts,
        **numbers,
        **({"machine": machine} if machine else {}),
        "year": begun.year,
        "month": begun.month,
        "day": begun.day,
        "tstamp": begun.isoformat(timespec="seconds"),
    }

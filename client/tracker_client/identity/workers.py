"""Distinguishes a rank from a child process of a rank, which has inherited the rank's environment.

A launcher gives each rank its RANK and WORLD_SIZE. Whatever a rank starts inherits them: a script of
``subprocess``, a worker of ``multiprocessing``, joblib or a DataLoader. Such a child must not claim its
parent's rank. So a process that sets up a tracker writes a *mark* to its environment (TRACKER_SET_UP_BY): its
pid and the variables of launchers that it has. A process with the mark of another process is one of these:

* a rank, if a launcher has given it other values than the mark has, or if it has joined a process group of
  ``torch.distributed`` itself;
* else a *child*: a launch of its own, whose only process is rank 0 of 1.

While ``multiprocessing`` starts a worker by 'spawn' or 'forkserver', the worker imports the script's main
module again, and runs a ``setup_tracker`` that is outside of ``if __name__ == "__main__"``. That call is a
*copy* of the parent's call, and makes no run.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import sys
from collections.abc import Mapping, MutableMapping
from dataclasses import asdict, dataclass
from enum import Enum
from typing import Any

from tracker_client.identity.rank import RANK_VARIABLES, WORLD_SIZE_VARIABLES

SET_UP_BY_VARIABLE = "TRACKER_SET_UP_BY"
GROUP_VARIABLES = (
    "TRACKER_LAUNCH_ID", "TORCHELASTIC_RUN_ID", "MASTER_ADDR", "MASTER_PORT", "SLURM_JOB_ID", "SLURM_STEP_ID",
    "SLURM_NTASKS", "SLURM_STEP_NUM_TASKS", "PALS_APID", "PMIX_NAMESPACE", "PMI_PORT", "PBS_JOBID",
    "LSB_JOBID", "FLUX_JOB_ID", "COBALT_JOBID", *WORLD_SIZE_VARIABLES,
)  # fmt: skip
"""Variables with the same value in all ranks of a launch, and mostly another one in another launch."""
LAUNCH_VARIABLES = (*GROUP_VARIABLES, *RANK_VARIABLES, "LOCAL_RANK", "NODE_RANK", "GROUP_RANK")
RUN_VARIABLES = ("TRACKER_RUN_ID", "WANDB_RUN_ID", "WANDB_RESUME", "WANDB_SWEEP_ID")
"""Variables that select one run: the parent's, if a child has inherited them."""

_inherited_group: object = None
"""The process group of ``torch.distributed`` that this process has from a fork of its parent."""


class Standing(Enum):
    """What a process that calls ``setup_tracker`` is."""

    RANK = "rank"
    CHILD = "child"
    """A child process that is a launch of its own."""
    COPY = "copy"
    """A worker that imports the script's main module again: the call is one of the parent's."""


@dataclass(frozen=True)
class Mark:
    """The mark of a process that has set up a tracker.

    Attributes:
        pid: the process.
        id: a random text, since pids are used again.
        rank: its rank.
        launch: a digest of its launch key.
        is_child: True if it is a child itself, and so a launch of its own.
        variables: the variables of LAUNCH_VARIABLES and RUN_VARIABLES that it has.
    """

    pid: int
    id: str
    rank: int
    launch: str
    is_child: bool
    variables: Mapping[str, str]

    @classmethod
    def read(cls, environ: Mapping[str, str]) -> Mark | None:
        """Return the mark in ``environ``; None if there is none."""
        try:
            return cls(**json.loads(environ.get(SET_UP_BY_VARIABLE, "")))
        except (ValueError, TypeError):
            return None

    def has_launch(self, key: str) -> bool:
        """Return True if ``key`` is the launch key of the marked process."""
        return _digest(key) == self.launch

    def changes(
        self, environ: Mapping[str, str], names: tuple[str, ...] = LAUNCH_VARIABLES
    ) -> dict[str, str]:
        """Return the variables among ``names`` that ``environ`` has with another value than the mark."""
        return {
            name: environ[name]
            for name in names
            if name in environ and environ[name] != self.variables.get(name)
        }

    def without_inherited_run(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return ``environ`` without the variables that select the marked process's run."""
        changed = self.changes(environ, RUN_VARIABLES)
        return {name: text for name, text in environ.items() if name not in RUN_VARIABLES or name in changed}


def mark_process(
    environ: MutableMapping[str, str], pid: int, *, rank: int, launch_key: str, is_child: bool
) -> None:
    """Write to ``environ`` that the process ``pid`` has a tracker."""
    variables = {name: environ[name] for name in (*LAUNCH_VARIABLES, *RUN_VARIABLES) if name in environ}
    mark = Mark(pid, secrets.token_hex(8), rank, _digest(launch_key), is_child, variables)
    environ[SET_UP_BY_VARIABLE] = json.dumps(asdict(mark))


def standing_of(
    environ: Mapping[str, str], modules: Mapping[str, Any], pid: int, rank: int | None = None
) -> Standing:
    """Return what the process ``pid`` is; ``rank`` is the argument of ``setup_tracker``."""
    mark = Mark.read(environ)
    if _imports_main_again(modules) and (rank is None or mark is None or rank == mark.rank):
        return Standing.COPY
    if rank is not None or mark is None:
        return Standing.RANK
    if mark.pid == pid:
        return Standing.CHILD if mark.is_child else Standing.RANK
    is_rank = mark.changes(environ) or _has_joined_group(modules)
    return Standing.RANK if is_rank else Standing.CHILD


def key_beside(parent: Mark, key: str, environ: Mapping[str, str]) -> str:
    """Return the launch key of a rank whose environment gives ``key``, the key of the process of ``parent``.

    The key stays if the two processes differ in their ranks alone. Otherwise the rank is in another group,
    such as one that a rank of torchrun starts; then the group becomes part of the key.
    """
    changed = parent.changes(environ, GROUP_VARIABLES)
    if parent.changes(environ) and not changed:
        return key
    return f"{key}/{_digest(json.dumps(changed) if changed else parent.id)}"


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:16]


def _imports_main_again(modules: Mapping[str, Any]) -> bool:
    """Return True while ``multiprocessing`` prepares a worker, before it calls the worker's function."""
    process = modules.get("multiprocessing.process")  # imported in every process that multiprocessing starts
    return process is not None and bool(getattr(process.current_process(), "_inheriting", False))


def _has_joined_group(modules: Mapping[str, Any]) -> bool:
    group = _process_group(modules)
    return group is not None and group is not _inherited_group


def _process_group(modules: Mapping[str, Any]) -> object:
    distributed = modules.get("torch.distributed")
    if distributed is None or not distributed.is_available() or not distributed.is_initialized():
        return None
    return distributed.group.WORLD


def _note_inherited_group() -> None:
    global _inherited_group  # noqa: PLW0603 - a fork changes the process itself
    _inherited_group = _process_group(sys.modules)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_note_inherited_group)

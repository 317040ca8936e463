"""Distinguishes a rank from a child process of a rank, which has inherited the rank's environment.

A launcher gives each rank its RANK and WORLD_SIZE. Whatever a rank starts inherits them: a script of
``subprocess``, a worker of ``multiprocessing``, joblib or a DataLoader. Such a child must not claim its
parent's rank. So a process that sets up a tracker has a *mark* (``tracker_client.identity.mark``): its pid
and the variables of launchers that it has. A process with the mark of another process is one of these:

* a rank, if a launcher has given it other values than the mark has, or if it has joined a process group of
  ``torch.distributed`` itself;
* else a *child*: a launch of its own, whose only process is rank 0 of 1.

While ``multiprocessing`` starts a worker by 'spawn' or 'forkserver', the worker imports the script's main
module again, and runs a ``setup_tracker`` that is outside of ``if __name__ == "__main__"``. That call is a
*copy* of the parent's call, and makes no run.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from enum import Enum
from typing import Any

from tracker_client.identity.mark import GROUP_VARIABLES, Mark, digest

_inherited_group: object = None
"""The process group of ``torch.distributed`` that this process has from a fork of its parent."""


class Standing(Enum):
    """What a process that calls ``setup_tracker`` is."""

    RANK = "rank"
    CHILD = "child"
    """A child process that is a launch of its own."""
    COPY = "copy"
    """A worker that imports the script's main module again: the call is one of the parent's."""


def standing_of(
    mark: Mark | None,
    environ: Mapping[str, str],
    modules: Mapping[str, Any],
    pid: int,
    rank: int | None = None,
) -> Standing:
    """Return what the process ``pid`` is.

    ``mark`` is its own or its nearest ancestor's, and ``rank`` the argument of ``setup_tracker``.
    """
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
    return f"{key}/{digest(json.dumps(changed) if changed else parent.id)}"


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

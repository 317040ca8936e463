"""Finds which rank of which launch this process is, as a rank or as a child process of a rank."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from tracker_client.identity.launch import first_process, launch_key, process_key
from tracker_client.identity.mark import Mark
from tracker_client.identity.rank import ALONE, NODES, RankInfo, RankOverrides, detect_rank
from tracker_client.identity.workers import Standing, key_beside, standing_of


@dataclass(frozen=True)
class Identity:
    """The identity of this process.

    Attributes:
        rank: the rank, in its launch.
        launch_key: the key that all ranks of the launch share.
        environ: the environment, without what selects the run of a parent that is a rank.
        is_child: True if the process is a child of a rank, and so a launch of its own.
        warnings: sentences for the user.
        shared_daemon_warning: a sentence for the user, where the daemon is not the launch's own.
    """

    rank: RankInfo
    launch_key: str
    environ: Mapping[str, str]
    is_child: bool
    warnings: tuple[str, ...]
    shared_daemon_warning: str | None = None


def identify(
    environ: Mapping[str, str],
    modules: Mapping[str, Any],
    pid: int,
    overrides: RankOverrides,
    launch_id: str | None = None,
    mark: Mark | None = None,
) -> Identity:
    """Find the identity of the process ``pid``.

    ``overrides`` and ``launch_id`` are the user's arguments. ``mark`` is the process's own, or that of its
    nearest ancestor.

    Raises:
        RankUnknown: several processes run, and no source gives the rank.
        SettingsError: a TRACKER_* variable or an argument is not a usable number.
    """
    parent = mark if mark is not None and mark.pid != pid else None
    if mark is not None and standing_of(mark, environ, modules, pid, overrides.rank) is Standing.CHILD:
        return _child(environ, mark, pid, launch_id)
    info = detect_rank(environ, modules, overrides)
    key, warning = launch_key(environ, info, launch_id)
    if parent is not None and parent.has_launch(key):
        of_script = first_process(environ, info) == parent.pid  # Lightning's launcher: the parent is a rank
        inherited = info.world_size == 1 or (of_script and info.source == NODES and info.local_rank == 0)
        if inherited and overrides.rank is None:
            return _child(environ, parent, pid, launch_id)
        another_rank = overrides.rank is not None and info.rank != parent.rank
        key = key if of_script or another_rank else key_beside(parent, key, environ)
    warnings = () if info.warning is None else (info.warning,)
    return Identity(info, key, environ, False, warnings, warning)


def _child(environ: Mapping[str, str], mark: Mark, pid: int, launch_id: str | None) -> Identity:
    launch = launch_id or environ.get("TRACKER_LAUNCH_ID", "")
    key = "/".join(filter(None, (launch, process_key(pid))))
    return Identity(
        RankInfo(0, 1, 0, ALONE), key, mark.without_inherited_run(environ), is_child=True, warnings=()
    )

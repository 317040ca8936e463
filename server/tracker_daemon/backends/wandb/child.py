"""The W&B backend in its own process, as the daemon starts it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.child.process import ChildBackend
from tracker_daemon.backends.wandb.init_arguments import known_handles


class WandbChildBackend(ChildBackend):
    """Runs :class:`~tracker_daemon.backends.wandb.backend.WandbBackend` in a child process."""

    name: ClassVar[str] = "wandb"
    target: ClassVar[str] = "tracker_daemon.backends.wandb.backend:WandbBackend"
    settings: ClassVar[Mapping[str, str]] = {"WANDB_ERROR_REPORTING": "false", "WANDB_SILENT": "true"}

    def known_handles(self, run: RunDescription) -> Mapping[str, str]:
        """Return the run's id, which this daemon chooses, and the names that the script gives."""
        return known_handles(run)

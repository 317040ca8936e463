"""The daemon's own backends, as the client knows them: their names, and what one in this process is given.

The classes themselves are in the daemon's package, which ``tracker_client.inprocess.loading`` imports.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from tracker_client.backends.base import TrackerBackend

CLASSES = {"csv": "CSVBackend", "mlflow": "MLflowBackend", "wandb": "WandbBackend"}
"""By the names that ``setup_tracker`` takes."""


@dataclass(frozen=True)
class RunArguments:
    """What every backend of a run in this process is told; ``continues``: the run's id was given to it."""

    project_name: str | None
    config: Any
    outdir: str | os.PathLike[str] | None
    rank: int
    run_id: str
    continues: bool


class BuiltInClass(Protocol):
    """What the built-in classes have beside :class:`TrackerBackend`'s own."""

    def for_run(self, run: RunArguments, options: Mapping[str, Any]) -> TrackerBackend:
        """Begin ``run`` with the backend's own options."""

    def option_names(self) -> frozenset[str]:
        """The options that it takes."""

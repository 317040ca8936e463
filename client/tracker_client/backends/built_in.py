"""The daemon's own backends that can run in the script's process: their names and their interface.

The classes themselves are in the daemon's package, which ``tracker_client.inprocess.loading`` imports.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tracker_client.backends.base import TrackerBackend

CLASSES = {"csv": "CSVBackend", "mlflow": "MLflowBackend", "wandb": "WandbBackend"}
"""The classes' names, by the names that ``setup_tracker`` accepts for ``backends``."""


@dataclass(frozen=True)
class RunArguments:
    """The arguments that every backend of a run in this process is given.

    Attributes:
        project_name: the project.
        config: the run's configuration, of any kind; None if there is none.
        outdir: the output directory, absolute.
        rank: this process's rank.
        run_id: the run's id.
        continues: True if the script or TRACKER_RUN_ID gave the id, so that an earlier run may continue.
        name: the run's name; "" if it has none.
        outdir_is_named: False if ``outdir`` is the default, which gives each run a directory of its own.
    """

    project_name: str | None
    config: Any
    outdir: Path
    rank: int
    run_id: str
    continues: bool
    name: str = ""
    outdir_is_named: bool = True


class BuiltInClass(Protocol):
    """The methods that the built-in classes have beside those of :class:`TrackerBackend`."""

    def for_run(self, run: RunArguments, options: Mapping[str, Any]) -> TrackerBackend:
        """Begin ``run`` with the backend's own ``options``; return the backend."""

    def option_names(self) -> frozenset[str]:
        """Return the names of the options that the class accepts."""

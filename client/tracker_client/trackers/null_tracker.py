"""The tracker that records nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from tracker_client.trackers.status import TrackerStatus
from tracker_client.trackers.tracker import FINISH_TIMEOUT_S, Tracker

if TYPE_CHECKING:
    from typing_extensions import Unpack

    from tracker_client.watch.options import WatchOptions


class NullTracker(Tracker):
    """A tracker whose calls do nothing, for ``backends="none"``."""

    def __init__(self) -> None:
        pass

    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool | None = True) -> None:  # noqa: FBT001, FBT002 - as in Tracker
        """Do nothing."""

    def log_config(self, config: Any) -> None:
        """Do nothing."""

    def define_metric(self, glob: str, step_metric: Any = None, summary: str | None = None) -> None:
        """Do nothing."""

    def log_table(self, key: str, columns: Any = None, data: Any = None, step: int | None = None) -> None:
        """Do nothing."""

    def log_image(
        self, key: str, image_path: Any, caption: str | None = None, step: int | None = None
    ) -> None:
        """Do nothing."""

    def log_artifacts(self, paths: Mapping[str, Any], step: int | None = None) -> None:
        """Do nothing."""

    def watch(self, model: Any, **options: Unpack[WatchOptions]) -> None:
        """Do nothing."""

    def unwatch(self, model: Any = None) -> None:
        """Do nothing."""

    def finish(self, exit_code: int = 0, wait: str = "files", timeout: float = FINISH_TIMEOUT_S) -> None:
        """Do nothing."""

    def get_backend(self, name: str) -> None:
        """Return None: there is no backend."""

    @property
    def wandb_run(self) -> None:
        """None."""

    @property
    def mlflow_run(self) -> None:
        """None."""

    @property
    def run_id(self) -> None:
        """None: there is no run."""

    @property
    def attempt(self) -> None:
        """None: there is no run."""

    @property
    def directory(self) -> None:
        """None: there are no files."""

    def __reduce__(self) -> tuple[Any, ...]:
        return NullTracker, ()

    def status(self) -> TrackerStatus:
        """Return the status of a disabled tracker."""
        return TrackerStatus()

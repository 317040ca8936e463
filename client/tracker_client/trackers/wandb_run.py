"""The handle of a W&B run that is written at the daemon."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from tracker_client.trackers.logged_values import RunConfig, RunSummary
from tracker_client.trackers.remote_handle import ReadHandle, RemoteHandle
from tracker_client.values.refusals import Refusals

if TYPE_CHECKING:
    from tracker_client.trackers.tracker import Tracker


_WATCH_ARGUMENTS = ("criterion", "log", "log_freq", "idx", "log_graph")


class WandbRun(RemoteHandle):
    """The W&B run of a tracker. ``url`` and ``project_url`` are None offline."""

    _kind = "wandb_run"
    _sent = frozenset(
        ("id", "name", "project", "entity", "group", "job_type", "url", "project_url", "dir", "mode")
    )
    _replacements: ClassVar[Mapping[str, str]] = {
        "use_artifact": "wandb.Api().artifact(…), with a key of the script's own,",
        "log_artifact": "tracker.log_artifacts({label: path})",
        "log_code": "tracker.log_artifacts({'code': directory})",
        "save": "tracker.log_artifacts({label: path})",
        "alert": "wandb.Api(), with a key of the script's own,",
        "step": "tracker.log(…, step=…) with a count of the script's own",
        "tags": "setup_tracker(…, tags=[…])",
        "notes": "setup_tracker(…, notes=…)",
    }

    def __init__(self, tracker: Tracker, read: ReadHandle, config: RunConfig, refusals: Refusals) -> None:
        super().__init__(read, tracker, "wandb_run")
        self._refusals = refusals
        self._tracker = tracker
        self._config = config
        self._summary = RunSummary(tracker.log)

    @property
    def config(self) -> RunConfig:
        """The configuration that this process has logged; setting a value logs it."""
        return self._config

    @property
    def summary(self) -> RunSummary:
        """The summary that this process has set; setting a value logs it."""
        return self._summary

    @property
    def offline(self) -> bool:
        """True if the run is not uploaded."""
        return self._read("mode") in {"offline", "disabled"}

    @property
    def path(self) -> str | None:
        """``entity/project/id``; None unless all three are known."""
        parts = [self._read(name) for name in ("entity", "project", "id")]
        return "/".join(part for part in parts if part) if all(parts) else None

    def get_url(self) -> str | None:
        """Return ``url``."""
        return self._read("url")

    def get_project_url(self) -> str | None:
        """Return ``project_url``."""
        return self._read("project_url")

    def project_name(self) -> str | None:
        """Return ``project``."""
        return self._read("project")

    def log(self, data: Mapping[str, Any], step: int | None = None, commit: bool | None = None) -> None:  # noqa: FBT001 - W&B's
        """Call the tracker's ``log``, which records in all of the run's backends."""
        self._tracker.log(data, step, commit is not False)

    def watch(self, models: Any, *arguments: Any, **kwargs: Any) -> None:
        """Call the tracker's ``watch``; ``arguments`` are in W&B's order."""
        self._tracker.watch(models, **dict(zip(_WATCH_ARGUMENTS, arguments, strict=False)), **kwargs)

    def unwatch(self, *models: Any) -> None:
        """Call the tracker's ``unwatch``."""
        self._tracker.unwatch(*models)

    def define_metric(
        self, name: str, step_metric: Any = None, step_sync: Any = None, hidden: Any = None,  # noqa: ARG002 - W&B's
        summary: str | None = None, goal: str | None = None, **_: Any,
    ) -> Any:  # fmt: skip
        """Call the tracker's ``define_metric``; return the definition, which may be the axis of others."""
        return self._tracker.define_metric(name, step_metric, self._summary_of(name, summary, goal))

    def _summary_of(self, name: str, summary: str | None, goal: str | None) -> str | None:
        """Return the tracker's word for a summary of W&B's, which may have several, or a goal."""
        if not isinstance(summary, str):
            return summary
        first, comma, _ = (part.strip() for part in summary.lower().partition(","))
        if comma:
            reason = f"summary={summary!r} has several values; a metric has one summary, here {first!r}"
            self._refusals.warn_once(f"define_metric({name!r})", reason)
        if first == "best":
            return "max" if str(goal).lower() in ("max", "maximize") else "min"
        return {"": None, "copy": "last"}.get(first, first)

    def _label(self, *_: Any, **__: Any) -> None:
        """Do nothing; frameworks label their own runs."""

    def finish(self, exit_code: int | None = None, **_: Any) -> None:
        """Call the tracker's ``finish``, which ends this rank's part of the run in all backends."""
        self._tracker.finish(exit_code or 0)

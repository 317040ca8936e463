"""The description of a run in MLflow from its beginning: tags of the training script, and system params.

All of it describes the script as the rank that opened the run saw it; nothing describes the daemon.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.mlflow.requests import tag_value
from tracker_daemon.version import VERSION

RUN_UID_TAG = "tracker.run_uid"

_TAGS_OF_ENVIRONMENT = {
    "user": "mlflow.user",
    "program": "mlflow.source.name",
    "git_commit": "mlflow.source.git.commit",
    "git_branch": "mlflow.source.git.branch",
    "git_remote": "mlflow.source.git.repoURL",
}
_NAMES_OF_PARAMS = {"host": "hostname"}
OPTIONS = frozenset(
    {
        "experiment_name", "experiment_id", "run_name", "run_id", "tags", "description", "parent_run_id",
        "nested", "log_system_metrics", "own_name",
    }
)  # fmt: skip


def opening_tags(run: RunDescription, now: datetime) -> dict[str, str]:
    """Return the tags to create a run with; the script's own options replace others."""
    tags = {RUN_UID_TAG: run.run_id, "mlflow.source.type": "LOCAL", "tracker.project": run.project}
    tags["tracker.started"] = now.astimezone(timezone.utc).isoformat(timespec="seconds")
    tags.update(
        {
            tag: run.environment[name]
            for name, tag in _TAGS_OF_ENVIRONMENT.items()
            if run.environment.get(name)
        }
    )
    if run.options.get("description"):
        tags["mlflow.note.content"] = str(run.options["description"])
    if run.options.get("parent_run_id"):
        tags["mlflow.parentRunId"] = str(run.options["parent_run_id"])
    tags.update(_asked_tags(run.options.get("tags")))
    if unknown := sorted(set(run.options) - OPTIONS):
        tags["tracker.ignored_options"] = ", ".join(unknown)
    # The uid tag must remain: the run is found by it.
    return {key: tag_value(value) for key, value in tags.items()} | {RUN_UID_TAG: run.run_id}


def run_name(run: RunDescription) -> str | None:
    """Return the run's name; None if MLflow is to choose one."""
    return str(run.options.get("run_name") or run.name) or None


def system_params(run: RunDescription, now: datetime) -> dict[str, str]:
    """Return the params that describe the script and its host, under the names that searches use."""
    begun = datetime.fromtimestamp(run.created_ns / 1e9, tz=timezone.utc) if run.created_ns else now
    utc = begun.astimezone(timezone.utc)
    params = {
        "version": VERSION,
        "timestamp": utc.isoformat(timespec="seconds"),
        "date": utc.strftime("%Y-%m-%d"),
        "year": str(utc.year),
        "month": str(utc.month),
        "day": str(utc.day),
    }
    params.update(
        {_NAMES_OF_PARAMS.get(name, name): value for name, value in run.environment.items() if value}
    )
    return {f"{run.system_prefix}.{name}": value for name, value in params.items()}


def _asked_tags(asked: Any) -> dict[str, str]:
    """Return the script's tags: from a dict, or from a list of words as W&B has them."""
    if isinstance(asked, Mapping):
        return {str(key): str(value) for key, value in asked.items()}
    if isinstance(asked, (list, tuple)):
        return {str(word): "true" for word in asked}
    return {}

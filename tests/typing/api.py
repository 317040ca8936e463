"""What a type checker says of the public API: checked by mypy, never run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from typing_extensions import assert_type

from tracker_client import (
    CSVBackend,
    MLflowBackend,
    NullTracker,
    Tracker,
    TrackerBackend,
    WandbBackend,
    __version__,
    ezpz_compat,
    register_backend,
    setup_tracker,
)
from tracker_client.trackers.status import TrackerStatus

tracker = setup_tracker("project", backends=["csv"], config={"lr": 0.1, "net": {"width": 3}}, rank=0)
assert_type(tracker, Tracker)
assert_type(setup_tracker(), Tracker)
assert_type(tracker.log({"loss": 0.1}), None)
assert_type(tracker.log({"loss": 0.1, "phase": "warm-up"}, step=3, commit=False), None)
assert_type(tracker.log_config({"lr": 0.2}), None)
assert_type(tracker.log({"eval": {"loss": 0.1}}), None)
assert_type(tracker.watch(object(), log="all", log_freq=10), None)
assert_type(tracker.watch(object(), log=None), None)
assert_type(tracker.log_artifacts(paths={"label": "path"}), None)
assert_type(tracker.unwatch(), None)
assert_type(tracker.unwatch(object()), None)
assert_type(tracker.finish(exit_code=1, wait="delivered", timeout=5.0), None)
assert_type(tracker.run_id, str | None)
assert_type(tracker.attempt, int | None)
assert_type(tracker.status(), TrackerStatus)
assert_type(__version__, str)

with setup_tracker() as entered:
    assert_type(entered, Tracker)

nothing: Tracker = NullTracker()


class Printing(TrackerBackend):
    name = "printing"

    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None: ...

    def log_config(self, config: Mapping[str, Any]) -> None: ...

    def finish(self) -> None: ...


class Plain:
    def log(self, metrics: dict[str, float], step: int | None = None, commit: bool = True) -> None: ...

    def finish(self) -> None: ...


class Unfinished(TrackerBackend):
    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None: ...


assert_type(tracker.get_backend("wandb"), Any)
assert_type(tracker.wandb_run, Any)
assert_type(tracker.mlflow_run, Any)
assert_type(register_backend("printing", Printing), None)
assert_type(Printing().log_artifacts({"label": "path"}), None)
csv = CSVBackend("./logs", 0)
mlflow = MLflowBackend("project", {"lr": 0.1}, "./logs", 0, run_name="first")
wandb = WandbBackend("project", {"lr": 0.1}, "./logs", 0, tags=["a"])
alone = Tracker([csv, mlflow, wandb, Printing(), Plain()])
assert_type(register_backend("plain", Plain), None)
assert_type(alone.log({"loss": 0.1, "picture": object()}, step=3), None)
assert_type(csv.finish(), None)
assert_type(mlflow.run_url, str | None)
assert_type(wandb.run_url, str | None)
assert_type(ezpz_compat.CSVBackend("./logs"), CSVBackend)
assert_type(ezpz_compat.setup_tracker("project"), Tracker)
assert_type(ezpz_compat.resolve_backend_names("csv,wandb"), list[str])
Tracker([1])  # type: ignore[list-item]
CSVBackend(rank="0")  # type: ignore[arg-type]
Unfinished()  # type: ignore[abstract]
register_backend("printing", int)  # type: ignore[arg-type]
setup_tracker(backends=3)  # type: ignore[arg-type]
tracker.watch(object(), log_freq="often")  # type: ignore[arg-type]
tracker.log("loss")  # type: ignore[arg-type]

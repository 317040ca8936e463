"""What a type checker says of the public API: checked by mypy, never run."""

from __future__ import annotations

from typing_extensions import assert_type

from tracker_client import NullTracker, Tracker, __version__, setup_tracker
from tracker_client.status import TrackerStatus

tracker = setup_tracker("project", backends=["csv"], config={"lr": 0.1, "net": {"width": 3}}, rank=0)
assert_type(tracker, Tracker)
assert_type(setup_tracker(), Tracker)
assert_type(tracker.log({"loss": 0.1}), None)
assert_type(tracker.log({"loss": 0.1, "phase": "warm-up"}, step=3, commit=False), None)
assert_type(tracker.log_config({"lr": 0.2}), None)
assert_type(tracker.finish(exit_code=1, wait="delivered", timeout=5.0), None)
assert_type(tracker.run_id, str | None)
assert_type(tracker.attempt, int | None)
assert_type(tracker.status(), TrackerStatus)
assert_type(__version__, str)

with setup_tracker() as entered:
    assert_type(entered, Tracker)

nothing: Tracker = NullTracker()

setup_tracker(backends=3)  # type: ignore[arg-type]
tracker.log("loss")  # type: ignore[arg-type]

"""A history that aggregates over ranks itself, as the seed's does, and is given a tracker of ours."""

from __future__ import annotations

import csv
import json
import subprocess
import sys

# All that such a history asks of a tracker, in the order in which it does. What stands for its all-reduce is
# off by a thousand on purpose, so that it shows whose value is recorded.
HISTORY = """
import json, os, sys
from tracker_client.ezpz_compat import CSVBackend, NullTracker, Tracker, setup_tracker

class History:
    def __init__(self, tracker, config=None, rank=0):
        self.tracker = tracker if tracker is not None else NullTracker()
        self.rank, self.rows = rank, []
        if config is not None:
            self.tracker.log_config(config)

    def update(self, metrics, step=None):
        own = {f"{key}/{name}": value + 1000.0 for key, value in metrics.items()
               for name in ("mean", "max", "min", "std")} if self.rank == 0 else {}
        self.rows.append({**metrics, **own})
        self.tracker.log({**metrics, **own}, step=step)

    def finalize(self):
        data = [list(row.values()) for row in self.rows]
        self.tracker.log_table("training_history", columns=list(self.rows[0]), data=data)
        self.tracker.finish()
"""
WITH_DAEMON = (
    HISTORY
    + """
rank = int(os.environ["RANK"])
history = History(setup_tracker("history"), {"lr": 0.1}, rank)
for step in range(20):
    history.update({"loss": float(rank + step), "acc": rank / 4}, step=step)
history.finalize()
"""
)
ALONE = (
    HISTORY
    + """
tracker = Tracker([CSVBackend(sys.argv[1])])
history = History(tracker=tracker, config={"lr": 0.1})
assert history.tracker.get_backend("csv") is not None
assert history.tracker.wandb_run is None
for step in range(20):
    history.update({"loss": float(step)})
history.finalize()
"""
)


def test_the_daemons_aggregates_win_over_a_historys_own_with_one_warning_each(daemon, ranks):
    ranks.run(WITH_DAEMON, 4)
    (run,) = daemon.status()["runs"]
    said = [event["text"] for event in run["events"]]
    assert daemon.stop() == 0
    rows = daemon.rows()
    assert [int(row["step"]) for row in rows] == list(range(20))
    for step, row in enumerate(rows):
        assert float(row["loss"]) == step
        assert {name: float(row[f"loss/{name}"]) for name in ("mean", "min", "max")} == {
            "mean": step + 1.5, "min": step, "max": step + 3,
        }  # fmt: skip
        assert abs(float(row["loss/std"]) - 1.25**0.5) < 1e-12
        assert float(row["acc/mean"]) == 0.375
    assert not any("mean/mean" in name for name in rows[0])
    for name in ("loss/mean", "loss/std", "acc/max"):
        assert len([text for text in said if f"'{name}'" in text]) == 1


def test_a_history_without_a_daemon_records_what_it_computes(tmp_path):
    subprocess.run([sys.executable, "-c", ALONE, str(tmp_path)], check=True, timeout=120)
    with (tmp_path / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["loss"]) for row in rows] == list(range(20))
    assert [float(row["loss/mean"]) for row in rows] == [step + 1000.0 for step in range(20)]
    assert json.loads((tmp_path / "config.json").read_text()) == {"lr": 0.1}

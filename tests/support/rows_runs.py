"""Runs whose ranks log calls that are known in advance: the calls, and the script that makes them."""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support.rows_oracle import Call, check_csv

REPLAY = """
import json, os, pathlib, random, sys, time
from tracker_client import setup_tracker

rank = os.environ["RANK"]
for run in json.load(open(sys.argv[1])):
    draw = random.Random(run["name"] + rank)
    # All ranks begin a run together: a rank that is seconds behind the others is not learned as a reporter.
    gate = pathlib.Path(run["outdir"] + ".ranks")
    gate.mkdir(exist_ok=True)
    (gate / rank).touch()
    while len(list(gate.iterdir())) < int(os.environ["WORLD_SIZE"]):
        time.sleep(0.01)
    tracker = setup_tracker(run["name"], outdir=run["outdir"], **run["options"])
    while run["connected"] and not tracker.status().run_id:
        time.sleep(0.01)
    time.sleep(run["late_s"].get(rank, 0.0))
    reached, begun = None, {}
    for values, step, commit in run["calls"].get(rank, []):
        # Not between calls that make one row: a row that was flushed may be recorded, and is so in parts.
        if step != reached and draw.random() < run["pauses"]:
            time.sleep(0.05 * draw.random())
        begun.setdefault(step, time.time())
        tracker.log(values, step=step, commit=commit)
        reached = step
    ended = time.time()
    tracker.finish()
    (gate / rank).write_text(json.dumps({"begun": list(begun.items()), "ended": ended}))
"""
"""Makes the calls of this rank, run by run, as the file that is its argument has them.

Then writes when it began each step, and when it had made all calls."""


@dataclass
class PlannedRun:
    """A run: each rank's calls, the share of steps with a pause before them, and ranks that begin late.

    ``connected``: the ranks make no call before the daemon has admitted them.
    """

    name: str
    calls: Mapping[int, list[Call]]
    pauses: float = 0.0
    late_s: Mapping[int, float] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    connected: bool = False

    def plain(self, outdir: Path) -> dict[str, Any]:
        calls = {
            rank: [(dict(call.values), call.step, call.commit) for call in calls]
            for rank, calls in self.calls.items()
        }
        return {
            "name": self.name, "outdir": str(outdir / self.name), "calls": calls, "pauses": self.pauses,
            "late_s": self.late_s, "options": self.options, "connected": self.connected,
        }  # fmt: skip

    def passed(self, outdir: Path) -> dict[int, float]:
        """Return the time at which the last of the ranks began a later step, or ended, by step."""
        found: dict[int, float] = {}
        for file in Path(f"{outdir / self.name}.ranks").iterdir():
            noted = json.loads(file.read_text())
            steps, times = zip(*noted["begun"], strict=True)
            for step, time_s in zip(steps, (*times[1:], noted["ended"]), strict=True):
                found[step] = max(found.get(step, 0.0), time_s)
        return found

    def errors(self, outdir: Path) -> list[str]:
        """What is wrong in the run's file."""
        primary = int(self.options.get("primary_rank", 0))
        return check_csv(outdir / self.name / "metrics.csv", self.calls, primary)


def write_plan(runs: list[PlannedRun], directory: Path) -> Path:
    """Write the file for :data:`REPLAY`; the runs' files will be below ``directory``."""
    path = directory / "plan.json"
    path.write_text(json.dumps([run.plain(directory) for run in runs]))
    return path


# ---- what one rank does --------------------------------------------------------------------------


def axes() -> PlannedRun:
    """Calls at steps that go back, with an axis of their own; two rows of one step with different names."""
    calls = [
        Call({"epoch": 0, "train/avg": 0.5}, 7),
        Call({"epoch": 1, "val/loss": 11.0}, 4),
        Call({"epoch": 1, "train/avg": 0.4}, 17),
        Call({"epoch": 2, "val/loss": 12.0}, 14),
        Call({"temp": 0.0, "acc_a": 1.0}, 20),
        Call({"temp": 0.7, "acc_b": 2.0}, 20),
    ]
    return PlannedRun("axes", {0: calls}, options={"step_axes": {"val/*": "epoch"}})


def commits() -> PlannedRun:
    """Calls that merge, close and complete rows, and steps by key."""
    calls = [
        Call({"a": 1.0}, commit=None),
        Call({"a": 2.0}, commit=None),
        Call({"b": 1.5}, commit=False),
        Call({"b": 2.5}, commit=False),
        Call({"a": 3.0}),
        Call({"step": 100, "a": 4.0}),
        Call({"a": 5.0}),
        Call({"step": 300, "a": 6.0}, 200),
        Call({"c": 0.5}, 200),
        Call({"a": 7.0, "flag": True, "count": 3, "note": "x"}, 201, commit=False),
        Call({"step": 7.0, "a": 8.0}),
        Call({"step": "soon", "a": 9.0}),
        Call({"d": 1.0}, commit=False),
    ]
    return PlannedRun("commits", {0: calls})


def repeats() -> PlannedRun:
    """A thousand values of one key at one step; a thousand descending steps."""
    ended = [Call({"episode/return": float(i), "episode/length": i}, 20) for i in range(1_000)]
    noise = [Call({"loss/at_noise": step / 1_000}, step) for step in range(1_000, 0, -1)]
    return PlannedRun("repeats", {0: [*ended, *noise]})


def in_turn() -> PlannedRun:
    """200 coroutines × 20 passes that log in turn, each at steps of its own."""
    calls = [
        Call({"loss": float(task), "pass": turn}, task * 20 + turn)
        for turn in range(20)
        for task in range(200)
    ]
    return PlannedRun("in_turn", {0: calls})


# ---- what several ranks do -----------------------------------------------------------------------


def learning_rate_apart(ranks: int) -> PlannedRun:
    """All ranks log a loss; the primary also logs a rate, at first alone, and an evaluation now and then."""
    calls: dict[int, list[Call]] = {rank: [] for rank in range(ranks)}
    for step in range(30):
        calls[0].append(Call({"lr": 0.1 / (step + 1)}, step))
        for rank in range(ranks):
            calls[rank].append(Call({"loss": rank + step / 10, "tokens": 100 * rank + step}, step))
        if step % 10 == 9:
            calls[0].append(Call({"eval/acc": step / 30, "eval/seen": step}, step))
    return PlannedRun(f"lr_apart_{ranks}", calls, pauses=0.2, late_s={ranks - 1: 1.0})


def pipeline(ranks: int) -> PlannedRun:
    """Only the last rank has the loss, as in pipeline parallelism; each has its memory."""
    calls: dict[int, list[Call]] = {rank: [] for rank in range(ranks)}
    for step in range(40):
        for rank in range(ranks):
            values: dict[str, Any] = {"memory": 1.5 * rank + step}
            if rank == ranks - 1:
                values |= {"loss": 10.0 / (step + 1), "perplexity": float(step)}
            calls[rank].append(Call(values, step))
    return PlannedRun(f"pipeline_{ranks}", calls, pauses=0.1)


def last_is_primary(ranks: int) -> PlannedRun:
    """As :func:`pipeline`, with the last rank as the primary."""
    run = pipeline(ranks)
    return PlannedRun(f"primary_{ranks}", run.calls, options={"primary_rank": ranks - 1})


def reloaded(ranks: int) -> PlannedRun:
    """All ranks go back to a checkpoint within their attempt, twice."""
    steps = [*range(40), *range(20, 35), *range(30, 60)]
    calls = {
        rank: [
            Call({"loss": rank + index / 7, "norm": index * 0.5}, step) for index, step in enumerate(steps)
        ]
        for rank in range(ranks)
    }
    return PlannedRun(f"reloaded_{ranks}", calls, pauses=0.1)


def ragged(ranks: int, steps: int) -> PlannedRun:
    """Each rank logs 1 to 64 values a step, another number than the others; the primary has a further key."""
    calls: dict[int, list[Call]] = {rank: [] for rank in range(ranks)}
    for rank in range(ranks):
        draw = random.Random(rank)
        for step in range(steps):
            for index in range(draw.randint(1, 64)):
                values: dict[str, Any] = {"return": draw.gauss(0, 1), "length": draw.randint(1, 500)}
                if rank == 0 and index == 0:
                    values["fps"] = draw.random()
                calls[rank].append(Call(values, step))
    return PlannedRun(f"ragged_{ranks}", calls, pauses=0.5, late_s={1: 3.0})


def seeds_example(ranks: int) -> PlannedRun:
    """All ranks log a loss; the primary also logs a rate apart, and a summary alone when all is done."""
    calls = {rank: [Call({"loss": rank + step / 10}, step) for step in range(12)] for rank in range(ranks)}
    calls[0] = [call for loss in calls[0] for call in (Call({"lr": 0.1}, loss.step), loss)]
    calls[0].append(Call({"summary/best": 0.5}, 12))
    options = {"backends": "csv,wandb"}
    return PlannedRun(f"seeds_{ranks}", calls, pauses=1.0, options=options, connected=True)


def mixed(ranks: int, seed: int) -> PlannedRun:
    """Each rank logs most of the shared metrics, and some of its own, once or more at each step.

    No rank leaves out a metric at three steps in a row: other ranks would no longer wait for it.
    """
    draw = random.Random(seed)
    shared = ["loss", "acc", "tokens"]
    calls: dict[int, list[Call]] = {}
    for rank in range(ranks):
        calls[rank], missing = [Call({name: float(rank) for name in shared}, 0)], ""
        for step in sorted(draw.choices(range(1, 100), k=60) + list(range(1, 100))):
            missing = draw.choice([name for name in ("", *shared) if name != missing])
            names = [*shared, *draw.sample([f"rank{rank}/a", f"rank{rank}/b"], draw.randint(0, 2))]
            values: dict[str, Any] = {name: draw.gauss(0, 1) for name in names if name != missing}
            calls[rank].append(Call(values, step, draw.random() < 0.8))
    return PlannedRun(f"mixed_{ranks}_{seed}", calls, pauses=0.1, late_s={seed % ranks: 1.0})


def one_rank() -> list[PlannedRun]:
    """Runs of one rank."""
    return [axes(), commits(), repeats(), in_turn()]


def several_ranks(ranks: int) -> list[PlannedRun]:
    """Runs of ``ranks`` ranks."""
    return [
        learning_rate_apart(ranks),
        pipeline(ranks),
        last_is_primary(ranks),
        reloaded(ranks),
        ragged(ranks, 40),
        mixed(ranks, 1),
    ]

"""Trains with every loop in turn: ``python -m tests.integration.scripts OUTDIR``, once for each rank."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from types import ModuleType
from typing import Any

from tests.integration.scripts import cleanrl_like, nanogpt_like, open_clip_like, timm_like
from tracker_client import setup_tracker

LOOPS = {"nanogpt": nanogpt_like, "cleanrl": cleanrl_like, "open_clip": open_clip_like, "timm": timm_like}


def main() -> None:
    outdir, rank, world_size = Path(sys.argv[1]), int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    for name, loop in LOOPS.items():
        # All ranks begin a loop together: one that is seconds behind is not learned as a reporter.
        gate = outdir / f"{name}.ranks"
        gate.mkdir(exist_ok=True)
        (gate / str(rank)).touch()
        while len(list(gate.iterdir())) < world_size:
            time.sleep(0.01)
        calls = track(name, loop, outdir / name, rank, world_size)
        (outdir / f"{name}-{rank}.json").write_text(json.dumps(calls))


def track(name: str, loop: ModuleType, outdir: Path, rank: int, world_size: int) -> list[Any]:
    """Train with a tracker; return the calls."""
    calls: list[Any] = []
    with setup_tracker(f"{name}-{world_size}", outdir=str(outdir)) as tracker:
        for glob, axis in getattr(loop, "AXES", {}).items():
            tracker.define_metric(glob, step_metric=axis)
        for glob, summary in getattr(loop, "SUMMARIES", {}).items():
            tracker.define_metric(glob, summary=summary)

        def log(values: Mapping[str, Any], step: int | None = None, commit: bool | None = True) -> None:
            calls.append([dict(values), step, commit])
            tracker.log(values, step=step, commit=commit)

        loop.train(rank, world_size, log)
    return calls


main()

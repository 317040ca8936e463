"""A loop that logs one row an epoch, made of several dicts, from the master; other ranks log throughput."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

AXES = {"eval_*": "epoch"}


def train(rank: int, world_size: int, log: Callable[..., None]) -> None:
    """Log an ordered row with the epoch in it, and no step."""
    for epoch in range(12):
        if rank == 0:
            row: OrderedDict[str, float] = OrderedDict(epoch=epoch)
            row.update((f"train_{name}", value / (epoch + 1)) for name, value in (("loss", 6.9),))
            row.update((f"eval_{name}", value) for name, value in (("loss", 6.0), ("top1", epoch * 1.5)))
            row["lr"] = 0.05 * (1 - epoch / 12)
            log(row, commit=False)
            log({"images_per_second": 1000.0 * world_size})
        else:
            log({"images_per_second": 1000.0 * world_size + rank})

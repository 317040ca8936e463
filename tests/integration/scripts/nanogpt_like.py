"""A loop that evaluates first, and then logs from the master process alone, at its own iteration numbers."""

from __future__ import annotations

import math
from collections.abc import Callable

WARMUP, DECAY, HIGH, LOW = 10, 60, 6e-4, 6e-5


def rate(iteration: int) -> float:
    """Linear warm-up, then a cosine down to the lowest rate."""
    if iteration < WARMUP:
        return HIGH * (iteration + 1) / (WARMUP + 1)
    ratio = (iteration - WARMUP) / (DECAY - WARMUP)
    return LOW + 0.5 * (1.0 + math.cos(math.pi * ratio)) * (HIGH - LOW)


def train(rank: int, world_size: int, log: Callable[..., None]) -> None:
    """Log an evaluation each 10 iterations, and the loss of each; only the master logs."""
    for iteration in range(DECAY):
        lr = rate(iteration)
        if iteration % 10 == 0 and rank == 0:
            losses = {"train/loss": 10.9 / (iteration + 1), "val/loss": 11.1 / (iteration + 1)}
            log({"iter": iteration, **losses, "lr": lr, "mfu": 100 * (-1.0 if iteration < 5 else 0.38)})
        loss = 10.9 / (iteration + 1 + world_size / 100)
        if rank == 0 and iteration % 5 == 0:
            log({"iter": iteration, "train/step_loss": loss, "time_ms": 120.5 + iteration})

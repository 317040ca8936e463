"""A loop that logs training at samples seen, and after each epoch an evaluation at the epoch's number."""

from __future__ import annotations

from collections.abc import Callable

AXES = {"val/*": "epoch"}
SUMMARIES = {"val/*": "max", "train/scale": "mean"}
BATCHES, EVERY, EPOCHS = 30, 5, 3


def train(rank: int, world_size: int, log: Callable[..., None]) -> None:
    """Log from all ranks each five batches, and evaluations from the master at steps far below."""
    for epoch in range(EPOCHS):
        for batch in range(0, BATCHES, EVERY):
            step = epoch * BATCHES + batch
            values = {
                "data_time": 0.01 * (rank + 1),
                "batch_time": 0.2 + 0.01 * rank,
                "samples_per_second": 512.0 / (0.2 + 0.01 * rank),
                "scale": 14.3,
                "lr": 5e-4 / (epoch + 1),
                "contrastive_loss": 4.0 / (step + 1) + rank / 10,
            }
            log({f"train/{name}": value for name, value in values.items()} | {"step": step}, step=step)
        if rank == 0:
            log(
                {"val/imagenet-zeroshot-val-top1": 0.1 * epoch, "val/num_samples": 5000, "epoch": epoch},
                step=epoch,
            )

"""A loop of reinforcement learning: many environments end at one step, and losses follow at the same step."""

from __future__ import annotations

import random
from collections.abc import Callable

ENVIRONMENTS = 8


def train(rank: int, world_size: int, log: Callable[..., None]) -> None:
    """Log each episode that ends, then each scalar of the update by itself, all at the global step."""
    draw = random.Random(rank)
    global_step = 0
    for update in range(1, 26):
        for _ in range(4):
            global_step += ENVIRONMENTS * world_size
            for environment in range(ENVIRONMENTS):
                if (environment + update + rank) % 3 == 0:
                    log({"charts/episodic_return": draw.gauss(100, 20)}, step=global_step)
                    log({"charts/episodic_length": draw.randint(10, 500)}, step=global_step)
        scalars = {
            "charts/learning_rate": 2.5e-4 * (1 - (update - 1) / 25),
            "losses/value_loss": draw.random(),
            "losses/policy_loss": draw.gauss(0, 0.01),
            "losses/entropy": 0.69,
            "losses/explained_variance": draw.uniform(-1, 1),
            "charts/SPS": 1000 + update,
        }
        for name, value in scalars.items():
            log({name: value}, step=global_step)

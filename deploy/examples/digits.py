"""Train a small network on scikit-learn's handwritten digits with PyTorch DDP, and track every rank.

The data are part of scikit-learn, the processes communicate by gloo, and the script takes a few seconds on
two CPU cores::

    tracker-daemon run --outdir runs/digits -- torchrun --nproc-per-node 4 deploy/examples/digits.py
    tracker-daemon run --outdir runs/digits -- mpiexec -n 4 python deploy/examples/digits.py

Every rank logs its own loss, accuracy, gradient norm, step time and throughput at each step; rank 0
logs the evaluation at each epoch, on its own axis.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
import torch.distributed as dist
from sklearn.datasets import load_digits
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tracker_client import setup_tracker

PIXELS, CLASSES = 64, 10
TRAINING_IMAGES = 1437
"""Of the 1,797 images; the others are for evaluation."""


def parse_arguments() -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description="Train a small network on handwritten digits.")
    parser.add_argument("--epochs", type=int, default=10)
    parser.add_argument("--batch-size", type=int, default=32, help="images per rank and step")
    parser.add_argument("--hidden", type=int, default=64, help="width of the hidden layer")
    parser.add_argument("--lr", type=float, default=0.1)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--write-own",
        type=Path,
        metavar="DIR",
        help="also write each rank's metrics to DIR/rank-R.jsonl, to compare them with the recorded ones",
    )
    return parser.parse_args()


def join_processes() -> None:
    """Join the process group, whether torchrun or MPI has started the processes.

    Under mpiexec the ranks are taken from Open MPI's or MPICH's variables. The ranks on one host have the
    same parent process, whose id gives all of them the same port. For several hosts set MASTER_ADDR and
    MASTER_PORT.
    """
    for name, sources in {
        "RANK": ("OMPI_COMM_WORLD_RANK", "PMI_RANK"),
        "WORLD_SIZE": ("OMPI_COMM_WORLD_SIZE", "PMI_SIZE"),
    }.items():
        found = [os.environ[source] for source in sources if source in os.environ]
        os.environ.setdefault(name, found[0] if found else str(int(name == "WORLD_SIZE")))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    os.environ.setdefault("MASTER_PORT", str(20_000 + os.getppid() % 10_000))
    dist.init_process_group("gloo")


def load_data() -> tuple[Tensor, Tensor]:
    """Return the images, float32 of shape (1797, 64) in [0, 1], and their labels, in a fixed random order."""
    digits = load_digits()
    order = torch.randperm(len(digits.target), generator=torch.Generator().manual_seed(0))
    images = torch.tensor(digits.data, dtype=torch.float32) / 16
    return images[order], torch.tensor(digits.target)[order]


def batches_of(epoch: int, batch_size: int) -> Iterator[Tensor]:
    """Yield this rank's batches of indices into the training images, the same number on every rank."""
    order = torch.randperm(TRAINING_IMAGES, generator=torch.Generator().manual_seed(epoch))
    per_rank = TRAINING_IMAGES // dist.get_world_size()
    own = order[dist.get_rank() :: dist.get_world_size()][:per_rank]
    yield from own.split(batch_size)


def train_step(model: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, y: Tensor) -> dict[str, float]:
    """Train one step and return this rank's metrics of the step."""
    began = time.perf_counter()
    optimizer.zero_grad()
    logits = model(x)
    loss = nn.functional.cross_entropy(logits, y)
    loss.backward()
    grad_norm = nn.utils.get_total_norm([p.grad for p in model.parameters() if p.grad is not None])
    optimizer.step()
    elapsed_s = time.perf_counter() - began
    return {
        "loss": loss.item(),
        "accuracy": (logits.argmax(1) == y).double().mean().item(),
        "grad_norm": grad_norm.item(),
        "step_time_s": elapsed_s,
        "samples_per_s": len(y) / elapsed_s,
    }


@torch.no_grad()
def evaluate(model: nn.Module, x: Tensor, y: Tensor) -> dict[str, float]:
    """Return loss and accuracy over the images for evaluation."""
    logits = model(x)
    return {
        "eval/loss": nn.functional.cross_entropy(logits, y).item(),
        "eval/accuracy": (logits.argmax(1) == y).double().mean().item(),
    }


class OwnRecord:
    """Writes this rank's metrics, one JSON array ``[step, metrics]`` a line; without a directory, nothing."""

    def __init__(self, directory: Path | None, rank: int) -> None:
        self._file = None
        if directory is not None:
            directory.mkdir(parents=True, exist_ok=True)
            self._file = (directory / f"rank-{rank}.jsonl").open("w")

    def write(self, step: int, metrics: Mapping[str, float]) -> None:
        """Append one row; floats are written so that they read back exactly."""
        if self._file is not None:
            self._file.write(json.dumps([step, metrics]) + "\n")

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()


def main() -> None:
    """Train, track, and print the loss of each epoch's evaluation."""
    arguments = parse_arguments()
    torch.set_num_threads(1)
    torch.manual_seed(arguments.seed)
    join_processes()
    rank = dist.get_rank()
    config = {"optimizer": "SGD", **{k: v for k, v in vars(arguments).items() if k != "write_own"}}
    tracker = setup_tracker(project_name="digits", config=config)
    own = OwnRecord(arguments.write_own, rank)

    def log(metrics: dict[str, float], step: int) -> None:
        tracker.log(metrics, step=step)
        own.write(step, metrics)

    x, y = load_data()
    hidden = arguments.hidden
    network = nn.Sequential(nn.Linear(PIXELS, hidden), nn.ReLU(), nn.Linear(hidden, CLASSES))
    model = DistributedDataParallel(network)
    optimizer = torch.optim.SGD(model.parameters(), lr=arguments.lr, momentum=0.9)
    step = 0
    for epoch in range(arguments.epochs):
        for indices in batches_of(epoch, arguments.batch_size):
            log(train_step(model, optimizer, x[indices], y[indices]), step=step)
            step += 1
        if rank == 0:
            results = evaluate(network, x[TRAINING_IMAGES:], y[TRAINING_IMAGES:])
            log({**results, "epoch": epoch}, step=epoch)
            print(f"epoch {epoch}: evaluation loss {results['eval/loss']:.3f}")
    own.close()
    tracker.finish()
    dist.destroy_process_group()


if __name__ == "__main__":
    main()

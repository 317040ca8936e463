"""What a root pays for a second of training, with every rank's stream to it and with nodes that forward.

Real batches, real decoding, real folds; no network and no disk. Each rank logs METRICS metrics in STEPS steps
a second and flushes once a second; a node has RANKS_PER_NODE ranks.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable

import numpy as np

from tracker_daemon.aggregation.node.fold import NodeFold
from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.shared.rules import Rules
from tracker_daemon.wire.batches import decode_batch
from tracker_daemon.wire.node_batches import encode_forwarded
from tracker_protocol.v1 import tracker_pb2 as pb

METRICS, STEPS, RANKS_PER_NODE = 20, 10, 16
NAMES = tuple(f"metric/{index}" for index in range(METRICS))
SECONDS = 5
_NS = 1_000_000_000


def _body(rank: int, second: int) -> bytes:
    """What a rank sends after a second."""
    steps = np.arange(second * STEPS, (second + 1) * STEPS, dtype="<i8")
    values = np.random.default_rng(rank * 1_000 + second).normal(size=(STEPS, METRICS))
    block = pb.Block(
        keys=range(METRICS),
        steps=steps.tobytes(),
        times=steps.tobytes(),
        rows=steps.tobytes(),
        values=values.astype("<f8").tobytes(),
    )
    return pb.BatchBody(blocks=[block], flushed=True).SerializeToString()


def _id(number: int) -> bytes:
    return number.to_bytes(16, "big")


class _Root:
    """The fold of a run of ``ranks``; ``streams`` are those that send to it."""

    def __init__(self, ranks: int) -> None:
        self.fold = RootFold(Rules())
        for rank in range(ranks):
            self.fold.hello(_id(rank), rank, ranks, 1, NAMES, 0)

    def second(self, second: int, bodies: list[tuple[bytes, bytes]]) -> float:
        """Take in a second's bodies; the seconds that this took."""
        begun = time.perf_counter()
        for stream, body in bodies:
            self.fold.batch(stream, decode_batch(body, METRICS), second * _NS)
        self.fold.settle(second * _NS)
        return time.perf_counter() - begun


class _Nodes:
    """The folds of all nodes, and what they took on average."""

    def __init__(self, ranks: int) -> None:
        self.folds = {
            _id(1_000_000 + first): (NodeFold(Rules()), first) for first in range(0, ranks, RANKS_PER_NODE)
        }
        self.took: list[float] = []
        for fold, first in self.folds.values():
            for rank in range(first, first + RANKS_PER_NODE):
                fold.hello(_id(rank), rank, ranks, 1, NAMES, 0)

    def second(self, second: int) -> list[tuple[bytes, bytes]]:
        forwarded = []
        for stream, (fold, first) in self.folds.items():
            bodies = [(_id(rank), _body(rank, second)) for rank in range(first, first + RANKS_PER_NODE)]
            begun = time.perf_counter()
            for own, body in bodies:
                fold.batch(own, decode_batch(body, METRICS), second * _NS)
            fold.forward(everything=False)
            batches = encode_forwarded(fold.settle(second * _NS).forwarded)
            self.took.append(time.perf_counter() - begun)
            forwarded += [(stream, batch.body) for batch in batches]
        return forwarded


def _measure(root: _Root, of_second: Callable[[int], list[tuple[bytes, bytes]]]) -> tuple[float, int, int]:
    """Median time of a second, and in the last one the messages and their bytes."""
    took, bodies = [], []
    for second in range(SECONDS):
        bodies = of_second(second)
        took.append(root.second(second, bodies))
    return statistics.median(took[1:]), len(bodies), sum(len(body) for _, body in bodies)


def main(scale: float = 1.0) -> None:
    """Print both arrangements for growing numbers of ranks."""
    print(f"{METRICS} metrics, {STEPS} steps a second, {RANKS_PER_NODE} ranks a node")
    for ranks in (256, 1_024, 4_096):
        count = max(RANKS_PER_NODE, int(ranks * scale) // RANKS_PER_NODE * RANKS_PER_NODE)
        flat = _measure(_Root(count), lambda second, n=count: [(_id(r), _body(r, second)) for r in range(n)])
        nodes, root = _Nodes(count), _Root(count)
        for stream in nodes.folds:
            root.fold.hello(stream, -1, 0, 1, NAMES, 0)
        tree = _measure(root, nodes.second)
        node_s = statistics.median(nodes.took[len(nodes.folds) :])
        print(
            f"{count:5} ranks, {_shown('all at the root', flat)}; {_shown('through nodes', tree)}", end="; "
        )
        print(f"ratio {flat[0] / tree[0]:.1f}; a node itself {node_s * 1e3:.1f} ms")


def _shown(what: str, measured: tuple[float, int, int]) -> str:
    took_s, messages, size = measured
    return f"{what}: {took_s * 1e3:.1f} ms, {messages} messages, {size / 1e6:.2f} MB"

"""Durable ingest: 64 streams of 50 metrics from two processes, in points acknowledged a second.

The clients' batches are encoded beforehand, so that what is measured is the daemon: receiving,
decoding, folding over 64 ranks, journalling with fsync, acknowledging. Also with CSV delivery beside.
"""

from __future__ import annotations

import multiprocessing
import os
import queue
import statistics
import threading
import time
import zlib
from multiprocessing.queues import Queue

import grpc
import numpy as np
from serving import daemon

from tracker_protocol import PROTOCOL_VERSION, STREAM_METHOD
from tracker_protocol.v1 import tracker_pb2 as pb

STREAMS, METRICS, PROCESSES = 64, 50, 2
ROWS_PER_BATCH, BATCHES, ROUNDS = 200, 30, 3
POINTS = STREAMS * METRICS * ROWS_PER_BATCH * BATCHES


def _batches(rank: int) -> list[pb.ClientMessage]:
    values = np.random.default_rng(rank).normal(size=(ROWS_PER_BATCH, METRICS)).astype("<f8").tobytes()
    messages = []
    for number in range(BATCHES):
        steps = np.arange(number * ROWS_PER_BATCH, (number + 1) * ROWS_PER_BATCH, dtype="<i8")
        numbers = steps.tobytes()
        block = pb.Block(keys=range(METRICS), steps=numbers, times=numbers, rows=numbers, values=values)
        body = pb.BatchBody(blocks=[block], flushed=True)
        if number == 0:
            body.names.extend(f"metric_{i}" for i in range(METRICS))
        if number == BATCHES - 1:
            body.finish = 0
        data = body.SerializeToString()
        batch = pb.Batch(sequence=number + 1, crc32=zlib.crc32(data), body=data)
        messages.append(pb.ClientMessage(batch=batch))
    return messages


def _stream(rank: int, endpoint: dict[str, str], launch: str, go: threading.Barrier) -> None:
    outbox: queue.SimpleQueue[pb.ClientMessage | None] = queue.SimpleQueue()
    channel = grpc.insecure_channel(endpoint["endpoint"], options=[("grpc.enable_http_proxy", 0)])
    call = channel.stream_stream(
        STREAM_METHOD, pb.ClientMessage.SerializeToString, pb.DaemonMessage.FromString
    )(iter(outbox.get, None), metadata=(("authorization", f"Bearer {endpoint['token']}"),))
    hello = pb.Hello(
        protocol_version=PROTOCOL_VERSION,
        stream_id=os.urandom(16),
        launch=pb.Launch(key=launch, project="bench"),
        process=pb.Process(rank=rank, world_size=STREAMS, host="bench", pid=os.getpid()),
    )
    outbox.put(pb.ClientMessage(hello=hello))
    next(call)
    messages = _batches(rank)
    go.wait()
    for message in messages:
        outbox.put(message)
    for reply in call:
        if reply.acknowledgement.sequence == BATCHES:
            break
    outbox.put(None)
    channel.close()


def _client(ranks: range, endpoint: dict[str, str], launch: str, times: Queue[float]) -> None:
    go = threading.Barrier(len(ranks) + 1)
    threads = [threading.Thread(target=_stream, args=(rank, endpoint, launch, go)) for rank in ranks]
    for thread in threads:
        thread.start()
    go.wait()
    times.put(time.time())
    for thread in threads:
        thread.join()
    times.put(time.time())


def _round(endpoint: dict[str, str], launch: str) -> float:
    """Points a second, from the first process's first batch to the last acknowledgement."""
    context = multiprocessing.get_context("spawn")
    times = context.Queue()
    share = STREAMS // PROCESSES
    clients = [
        context.Process(target=_client, args=(range(i * share, (i + 1) * share), endpoint, launch, times))
        for i in range(PROCESSES)
    ]
    for client in clients:
        client.start()
    marks = sorted(times.get() for _ in range(2 * PROCESSES))
    for client in clients:
        client.join()
    return POINTS / (marks[-1] - marks[0])


def main(scale: float = 1.0) -> None:
    for backends in ("none", "csv"):
        with daemon("--backends", backends) as (_, endpoint):
            rates = [_round(endpoint, f"{backends}-{i}") for i in range(max(1, round(ROUNDS * scale)))]
        shown = ", ".join(f"{rate / 1e6:.1f}" for rate in rates)
        print(
            f"backends {backends}: median {statistics.median(rates) / 1e6:.1f} million points/s ({shown}) "
            f"of {POINTS / 1e6:.0f} million points each"
        )


if __name__ == "__main__":
    main()

"""Messages as clients and nodes' daemons send them."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence

from tracker_protocol import PROTOCOL_VERSION
from tracker_protocol.v1 import tracker_pb2 as pb


def stream_id(number: int) -> bytes:
    return number.to_bytes(16, "big")


def hello(stream: int, rank: int = 0, *, world: int = 2, names: Sequence[str] = (), **launch) -> pb.Hello:
    options = pb.RunOptions(**launch.pop("options", {}))
    process = pb.Process(
        rank=rank, world_size=world, host=f"node{rank}", pid=1000 + stream, rank_source="the test",
        environment=launch.pop("environment", ""), id=launch.pop("process", None) or stream_id(stream),
        **{name: launch.pop(name) for name in ("agent", "age_ms", "restarts") if name in launch},
    )  # fmt: skip
    return pb.Hello(
        protocol_version=PROTOCOL_VERSION,
        stream_id=stream_id(stream),
        names=names,
        launch=pb.Launch(**{"key": "launch", "project": "project", **launch}),
        process=process,
        options=options,
    )


def body(
    rows: dict[int, float] | None = None,
    names: Sequence[str] = (),
    finish: int | None = None,
    first_row: int | None = None,
    **fields,
) -> bytes:
    """A batch's body: ``rows`` are the values by step of the dictionary's first metric.

    The number of the first row is that of its step, unless ``first_row`` is given. Unless ``flushed`` is
    given, the batch has everything that the rank has logged.
    """
    batch = pb.BatchBody(names=names, **{"flushed": True, **fields})
    if rows:
        n = len(rows)
        first = next(iter(rows)) if first_row is None else first_row
        batch.blocks.add(
            keys=[0],
            steps=struct.pack(f"<{n}q", *rows),
            times=struct.pack(f"<{n}q", *range(n)),
            values=struct.pack(f"<{n}d", *rows.values()),
            rows=struct.pack(f"<{n}q", *range(first, first + n)),
        )
    if finish is not None:
        batch.finish = finish
    return batch.SerializeToString()


NODE = b"n" * 16
NODES_STREAM = 100


def node_hello(run_id, *, stream=NODES_STREAM, node=NODE, names=(), files_lane=False):
    told = pb.Node(node_id=node, run_id=run_id, host="host7", pid=7, files_lane=files_lane)
    return pb.Hello(protocol_version=PROTOCOL_VERSION, stream_id=stream_id(stream), names=names, node=told)


def batch_message(sequence, payload):
    message = pb.Batch(sequence=sequence, crc32=zlib.crc32(payload), body=payload)
    return pb.ClientMessage(batch=message)

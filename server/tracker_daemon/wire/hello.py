"""Checks a Hello before anyone acts on it."""

from __future__ import annotations

from tracker_daemon.errors import ProtocolError
from tracker_daemon.journal.event import SEQUENCE_MAX
from tracker_daemon.wire.rows import check_names
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

_ID_BYTES = 16


def check_hello(hello: pb.Hello) -> None:
    """Check that ``hello`` is within the bounds of the protocol.

    Raises:
        ProtocolError: it is not.
    """
    if len(hello.stream_id) != _ID_BYTES:
        raise ProtocolError(f"a stream id has {_ID_BYTES} bytes, not {len(hello.stream_id)}")
    if hello.HasField("node"):
        _check_node(hello.node)
    else:
        _check_process(hello.process)
    if hello.last_acknowledged >= SEQUENCE_MAX - 2:
        raise ProtocolError(f"sequence {hello.last_acknowledged} cannot have been acknowledged")
    if len(hello.names) > limits.METRICS_PER_RUN_MAX:
        raise ProtocolError(f"the stream names more than {limits.METRICS_PER_RUN_MAX} metrics")
    check_names(tuple(hello.names))
    _check_texts(hello)


def _check_node(node: pb.Node) -> None:
    check_node_id(node.node_id)
    if not node.run_id:
        raise ProtocolError("a node's daemon forwards a run by its id, and names none")
    _check_text("host of a node", node.host)
    _check_text("run id", node.run_id)


def check_node_id(node_id: bytes) -> None:
    """Raise ProtocolError unless ``node_id`` is one."""
    if len(node_id) != _ID_BYTES:
        raise ProtocolError(f"a node's id has {_ID_BYTES} bytes, not {len(node_id)}")


def _check_process(process: pb.Process) -> None:
    if process.world_size > limits.WORLD_SIZE_MAX or process.rank >= limits.WORLD_SIZE_MAX:
        raise ProtocolError(f"ranks end at {limits.WORLD_SIZE_MAX - 1}")
    if len(process.id) not in (0, _ID_BYTES):
        raise ProtocolError(f"a process's id has {_ID_BYTES} bytes, not {len(process.id)}")
    if process.world_size and process.rank >= process.world_size:
        raise ProtocolError(
            f"rank {process.rank} does not exist among {process.world_size} ({process.rank_source})"
        )


def _check_texts(hello: pb.Hello) -> None:
    launch, process, options = hello.launch, hello.process, hello.options
    texts = {
        "launch key": launch.key,
        "project": launch.project,
        "name": launch.name,
        "run id": launch.run_id,
        "run key": launch.run_key,
        "torchrun agent": process.agent,
        "host": process.host,
        "rank source": process.rank_source,
        "list of backends": options.backends,
        "output directory": options.outdir,
        "record_ranks": options.record_ranks,
        "item_ranks": options.item_ranks,
    }
    for what, text in texts.items():
        _check_text(what, text)


def _check_text(what: str, text: str) -> None:
    if len(text.encode()) > limits.HELLO_TEXT_MAX_BYTES or "\0" in text:
        raise ProtocolError(
            f"the {what} has more than {limits.HELLO_TEXT_MAX_BYTES} bytes, or a null character"
        )

"""Batches between bodies and values. A body is checked as a whole before anything of it is used."""

from __future__ import annotations

from google.protobuf.message import DecodeError

from tracker_daemon.aggregation.values.batch import DecodedBatch, Exiting, NodeReport, RankPart
from tracker_daemon.errors import MalformedBatch
from tracker_daemon.rules.metric_definitions import MetricDefinition
from tracker_daemon.rules.metric_rules import Summary
from tracker_daemon.wire.contributions import decode_contribution, decode_progress, decode_step_keys
from tracker_daemon.wire.documents import check_json_object
from tracker_daemon.wire.items import decode_item, encode_item
from tracker_daemon.wire.rows import check_names, decode_rows, decode_texts, encode_rows, encode_texts
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

_STREAM_ID_BYTES = 16


def decode_batch(body: bytes, names_known: int) -> DecodedBatch:
    """Decode ``body``, given that the stream's dictionary held ``names_known`` names before it.

    Raises:
        MalformedBatch: anything in it breaks the protocol; nothing of it may be used.
    """
    message = pb.BatchBody()
    try:
        message.ParseFromString(body)
    except DecodeError as error:
        raise MalformedBatch(f"the batch is not a BatchBody: {error}") from error
    return _decoded(message, names_known)


def decode_journalled(body: bytes) -> DecodedBatch:
    """Decode a body from the journal, with every key that a dictionary may have.

    The body was checked against its stream's dictionary when it arrived, and the fold checks its keys again.
    """
    return decode_batch(body, limits.METRICS_PER_RUN_MAX)


def encode_batch(batch: DecodedBatch) -> bytes:
    """Encode the batch of a rank; equal batches have equal bytes."""
    return batch_message(batch).SerializeToString(deterministic=True)


def batch_message(batch: DecodedBatch) -> pb.BatchBody:
    """Return the message for the batch of a rank."""
    return pb.BatchBody(
        names=batch.names,
        blocks=map(encode_rows, batch.rows),
        texts=map(encode_texts, batch.texts),
        config=batch.config,
        dropped_points=batch.dropped_points,
        flushed=batch.flushed,
        finish=batch.finish,
        items=map(encode_item, batch.items),
        exiting=_encode_exiting(batch.exiting),
        lost=batch.lost,
        definitions=map(_encode_definition, batch.definitions),
    )


def _encode_exiting(exiting: Exiting | None) -> pb.Exiting | None:
    return None if exiting is None else pb.Exiting(status_fd=exiting.status_fd, nonce=exiting.nonce)


def _decoded(message: pb.BatchBody, names_known: int) -> DecodedBatch:
    names = tuple(message.names)
    check_names(names)
    known = names_known + len(names)
    rows = tuple(decode_rows(block, known) for block in message.blocks)
    texts = tuple(decode_texts(block, known) for block in message.texts)
    for document in message.config:
        check_json_object("a configuration", document)
    return DecodedBatch(
        names,
        rows,
        texts,
        tuple(message.config),
        message.dropped_points,
        message.flushed,
        message.finish if message.HasField("finish") else None,
        tuple(map(decode_item, message.items)),
        _decode_report(message, known),
        _decode_exiting(message),
        message.lost,
        tuple(map(_decode_definition, message.definitions)),
    )


def _encode_definition(definition: MetricDefinition) -> pb.MetricDefinition:
    return pb.MetricDefinition(glob=definition.glob, step_metric=definition.axis, summary=definition.summary)


def _decode_definition(message: pb.MetricDefinition) -> MetricDefinition:
    longest = max(len(message.glob.encode()), len(message.step_metric.encode()))
    if not message.glob or longest > limits.METRIC_NAME_MAX_BYTES:
        raise MalformedBatch(
            f"the glob or the axis of a definition has {longest} bytes; 1 to "
            f"{limits.METRIC_NAME_MAX_BYTES} are allowed"
        )
    if message.summary and message.summary not in set(Summary):
        raise MalformedBatch(f"{message.summary!r} is no summary of metrics")
    return MetricDefinition(message.glob, message.step_metric, message.summary)


def _decode_exiting(message: pb.BatchBody) -> Exiting | None:
    if not message.HasField("exiting"):
        return None
    nonce = message.exiting.nonce
    if len(nonce) > limits.EXIT_NONCE_MAX_BYTES:
        raise MalformedBatch(f"a nonce has {limits.EXIT_NONCE_MAX_BYTES} bytes at most, not {len(nonce)}")
    return Exiting(message.exiting.status_fd, nonce)


def _decode_report(message: pb.BatchBody, known: int) -> NodeReport | None:
    lists = (
        message.parts, message.contributions, message.progress, message.automatic_keys, message.notices
    )  # fmt: skip
    if not any(lists):
        return None
    return NodeReport(
        tuple(_decode_part(part, known) for part in message.parts),
        tuple(decode_contribution(contribution, known) for contribution in message.contributions),
        tuple(decode_progress(progress) for progress in message.progress),
        tuple(decode_step_keys(keys, known) for keys in message.automatic_keys),
        tuple(message.notices),
    )


def _decode_part(part: pb.RankPart, known: int) -> RankPart:
    if len(part.stream_id) != _STREAM_ID_BYTES:
        raise MalformedBatch(f"a stream id has {_STREAM_ID_BYTES} bytes, not {len(part.stream_id)}")
    if part.body.names or part.body.parts or part.body.contributions:
        raise MalformedBatch("a rank's part of a node's batch has names, or parts of its own")
    return part.stream_id, _decoded(part.body, known)

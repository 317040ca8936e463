"""The stream's messages from values to protobuf, and back."""

from __future__ import annotations

import zlib
from dataclasses import asdict

from tracker_client.backends.handles import HandlesAnswer
from tracker_client.backends.script_entries import (
    DeliveredConfig,
    DeliveredEnd,
    DeliveredEntry,
    DeliveredRows,
    TakenEntry,
)
from tracker_client.identity.own_process import age_ms
from tracker_client.transport.messages import (
    Acknowledgement,
    Challenge,
    Delivered,
    Forwarder,
    Introduction,
    Notice,
    Reply,
    RunDirectory,
    Welcome,
)
from tracker_protocol import PROTOCOL_VERSION
from tracker_protocol.v1 import tracker_pb2 as pb

# ---- to the daemon -------------------------------------------------------------------------------


def hello_message(
    introduction: Introduction, *, acknowledged: int, oldest_held: int, names: list[str]
) -> pb.ClientMessage:
    """Return the first message of a connection."""
    return pb.ClientMessage(
        hello=pb.Hello(
            protocol_version=PROTOCOL_VERSION,
            stream_id=introduction.stream_id,
            last_acknowledged=acknowledged,
            oldest_held=oldest_held,
            names=names,
            launch=_launch(introduction),
            process=_process(introduction),
            options=_run_options(introduction),
            script_backends=introduction.script_backends,
            answers_challenges=True,
        )
    )


def _launch(introduction: Introduction) -> pb.Launch:
    return pb.Launch(
        key=introduction.launch_key,
        project=introduction.project,
        name=introduction.name,
        ordinal=introduction.ordinal,
        run_id=introduction.run_id,
        run_key=introduction.run_key,
    )


def _process(introduction: Introduction) -> pb.Process:
    return pb.Process(
        rank=introduction.rank,
        world_size=introduction.world_size,
        local_rank=introduction.local_rank,
        host=introduction.host,
        pid=introduction.pid,
        rank_source=introduction.rank_source,
        client_version=introduction.client_version,
        working_directory=introduction.working_directory,
        environment=introduction.environment,
        restarts=introduction.restarts,
        id=introduction.process_id,
        agent=introduction.agent,
        age_ms=age_ms(),
        place=_place(introduction),
    )


def _place(introduction: Introduction) -> pb.ProcessPlace | None:
    if not introduction.pid_space:
        return None
    return pb.ProcessPlace(
        pid_space=introduction.pid_space,
        start_ticks=introduction.start_ticks,
        ancestors=[
            pb.Ancestor(pid=each.pid, start_ticks=each.start_ticks, program=each.program)
            for each in introduction.ancestors
        ],
    )


def _run_options(introduction: Introduction) -> pb.RunOptions:
    return pb.RunOptions(
        backends=introduction.backends,
        outdir=introduction.outdir,
        primary_rank=introduction.primary_rank,
        record_ranks=introduction.record_ranks,
        backend_options=introduction.backend_options,
        item_ranks=introduction.item_ranks,
        metrics=pb.MetricSettings(**asdict(introduction.metrics)),
        default_outdir=introduction.default_outdir,
    )


def batch_message(sequence: int, body: bytes) -> pb.ClientMessage:
    """Return a batch with its checksum."""
    return pb.ClientMessage(batch=pb.Batch(sequence=sequence, crc32=zlib.crc32(body), body=body))


def taken_message(taken: TakenEntry) -> pb.ClientMessage:
    """Return the answer of a class of the script to an entry."""
    return pb.ClientMessage(
        backend_taken=pb.BackendTaken(
            backend=taken.backend,
            epoch=taken.epoch,
            entry=taken.entry,
            refused_records=taken.refused_records,
            problem=taken.problem,
            closed=taken.closed,
        )
    )


# ---- from the daemon -----------------------------------------------------------------------------


def reply_of(message: pb.DaemonMessage) -> Reply | None:
    """Return the message as a value; None for kinds that only a newer daemon sends."""
    kind = message.WhichOneof("message")
    if kind == "welcome":
        return _welcome(message.welcome)
    if kind == "acknowledgement":
        acknowledgement = message.acknowledgement
        return Acknowledgement(acknowledgement.sequence, acknowledgement.flush_interval_ms / 1000)
    if kind == "delivered":
        return Delivered(message.delivered.missing, message.delivered.recorded)
    if kind == "backend_entry":
        return delivered_entry(message.backend_entry)
    if kind == "backend_handles":
        answer = message.backend_handles
        return HandlesAnswer(answer.backend, dict(answer.handles), answer.problem, answer.complete)
    if kind == "run_directory":
        return RunDirectory(message.run_directory.path)
    if kind == "challenge":
        return Challenge(message.challenge.nonce)
    return Notice(message.notice.text) if kind == "notice" else None


def _welcome(welcome: pb.Welcome) -> Welcome:
    return Welcome(
        run_id=welcome.run_id,
        attempt=welcome.attempt,
        next_sequence=welcome.next_sequence,
        next_step=welcome.next_step,
        flush_interval_s=welcome.flush_interval_ms / 1000,
        run_name=welcome.run_name,
        outdir=welcome.outdir,
        records_items=welcome.records_items,
        backends=tuple(welcome.backends),
        script_backends=tuple(welcome.script_backends),
        forwarder=_forwarder(welcome.forwarder) if welcome.HasField("forwarder") else None,
    )


def _forwarder(forwarder: pb.Forwarder) -> Forwarder:
    return Forwarder(forwarder.root, forwarder.host, forwarder.state_directory)


def delivered_entry(entry: pb.BackendEntry) -> DeliveredEntry:
    """Return a part of an outbox entry for a class of the script."""
    kind = entry.WhichOneof("content")
    content: DeliveredRows | DeliveredConfig | DeliveredEnd | None = None
    if kind == "records":
        records = entry.records
        texts = tuple((text.row, text.column, text.value) for text in records.texts)
        content = DeliveredRows(
            records.first_row,
            tuple(records.columns),
            records.steps,
            records.values,
            records.valid,
            texts,
            records.kinds,
        )
    elif kind == "config":
        content = DeliveredConfig(entry.config)
    elif kind == "end":
        content = DeliveredEnd(1 if entry.end.status == "FAILED" else 0)
    return DeliveredEntry(entry.backend, entry.epoch, entry.entry, entry.more, content)

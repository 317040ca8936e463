"""Events: what their payloads hold, and what each does to a fold.

Live ingestion and replay both go through :func:`apply`, so that a restart folds what was folded.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import msgspec

from tracker_daemon.aggregation.shared.batch import DecodedBatch
from tracker_daemon.aggregation.shared.fold import Fold
from tracker_daemon.journal.event import EventKind, Gap
from tracker_daemon.wire.batches import decode_journalled

_ORDINAL_JUMP = 1 << 32
"""Between journal epochs: far beyond what any backend can have received in the lost part."""


class ForwardExtent(IntEnum):
    """The part of the gathered values that a FORWARD event sends to the root."""

    WHOLE_ROWS = 0
    """Rows that no rank of the node can still add to."""
    EVERYTHING = 1


class HelloEvent(msgspec.Struct, frozen=True, array_like=True):
    """A stream joined its run, or came back."""

    rank: int
    world_size: int
    attempt: int
    names: tuple[str, ...]


class RunEndedEvent(msgspec.Struct, frozen=True, array_like=True):
    """The daemon above has said that the run has ended."""

    status: str
    reason: str


class NoticeEvent(msgspec.Struct, frozen=True, array_like=True):
    """Something that people should know; ``journal_lost`` says that acknowledged data is gone."""

    text: str
    journal_lost: bool = False


def encode(payload: msgspec.Struct | list[int] | int) -> bytes:
    """The bytes of an event's payload."""
    return msgspec.msgpack.encode(payload)


_hello = msgspec.msgpack.Decoder(HelloEvent).decode
_notice = msgspec.msgpack.Decoder(NoticeEvent).decode
_over = msgspec.msgpack.Decoder(RunEndedEvent).decode
_ranks = msgspec.msgpack.Decoder(list[int]).decode
_count = msgspec.msgpack.Decoder(int).decode


def apply(
    fold: Fold,
    kind: EventKind,
    stream: bytes,
    payload: bytes,
    now_ns: int,
    decoded: DecodedBatch | None = None,
) -> None:
    """Apply one event to ``fold``; ``decoded`` spares decoding a batch that ingest has decoded."""
    if kind is EventKind.BATCH:
        fold.batch(stream, decoded or decode_journalled(payload), now_ns)
    else:
        _EFFECTS[kind](fold, stream, payload, now_ns)


def _hear(fold: Fold, stream: bytes, payload: bytes, _now_ns: int) -> None:
    hello = _hello(payload)
    fold.hello(stream, hello.rank, hello.world_size, hello.attempt, hello.names)


def _depart(fold: Fold, payload: bytes, how: str, now_ns: int) -> None:
    for rank in _ranks(payload):
        fold.depart(rank, how, now_ns)


def _be_told(fold: Fold, over: RunEndedEvent) -> None:
    fold.ended_by_root(over.status, over.reason)


def _give_notice(fold: Fold, notice: NoticeEvent) -> None:
    fold.notices.append(notice.text)
    if notice.journal_lost:
        fold.skip_ordinals(_ORDINAL_JUMP)


_EFFECTS: dict[EventKind, Callable[[Fold, bytes, bytes, int], None]] = {
    EventKind.HELLO: _hear,
    EventKind.FLUSHED: lambda fold, stream, _, now_ns: fold.flushed(stream, now_ns),
    # A deadline only makes a tick: settling looks at the time.
    EventKind.DEADLINE: lambda *_: None,
    EventKind.LOST: lambda fold, _, payload, now_ns: _depart(fold, payload, "lost", now_ns),
    EventKind.ABSENT: lambda fold, _, payload, now_ns: _depart(fold, payload, "absent", now_ns),
    EventKind.GAP: lambda fold, _, payload, __: fold.gap(Gap.from_bytes(payload).points),
    EventKind.REJECTED: lambda fold, *_: fold.rejected(),
    EventKind.STARTED: lambda fold, _, __, now_ns: fold.restart_timers(now_ns),
    EventKind.OVERFLOW: lambda fold, _, payload, __: fold.close_oldest(_count(payload)),
    EventKind.LAUNCH_ENDED: lambda fold, _, payload, __: fold.end(_count(payload)),
    EventKind.FORWARD: lambda fold, _, payload, __: fold.cut(
        everything=_count(payload) == ForwardExtent.EVERYTHING
    ),
    EventKind.ENDED_BY_ROOT: lambda fold, _, payload, __: _be_told(fold, _over(payload)),
    EventKind.FLUSHES_WANTED: lambda fold, _, payload, __: fold.want_flushes(wanted=bool(_count(payload))),
    EventKind.NOTICE: lambda fold, _, payload, __: _give_notice(fold, _notice(payload)),
}

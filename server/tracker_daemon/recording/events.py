"""Events: their payloads, and the effect of each on a fold.

Live ingestion and replay both use :func:`apply`, so that a restart gives the same fold.
"""

from __future__ import annotations

from collections.abc import Callable
from enum import IntEnum

import msgspec

from tracker_daemon.aggregation.node.fold import NodeFold
from tracker_daemon.aggregation.root.fold import RootFold
from tracker_daemon.aggregation.shared.fold import Fold
from tracker_daemon.aggregation.values.batch import DecodedBatch
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
    """A stream has joined its run, or has returned."""

    rank: int
    world_size: int
    attempt: int
    names: tuple[str, ...]


class RunEndedEvent(msgspec.Struct, frozen=True, array_like=True):
    """The root has ended the run."""

    status: str
    reason: str


class ExitStatusEvent(msgspec.Struct, frozen=True, array_like=True):
    """The exit status of a rank that ended without ``finish()``; None if it cannot be known."""

    rank: int
    attempt: int
    code: int | None = None


class LaunchEndedEvent(msgspec.Struct, frozen=True, array_like=True):
    """The launch's command has ended; see :meth:`Fold.end`."""

    status: int
    own: tuple[int, ...] = ()
    reported: tuple[int, ...] = ()


class NoticeEvent(msgspec.Struct, frozen=True, array_like=True):
    """A sentence for people; with ``journal_lost``, acknowledged data is gone."""

    text: str
    journal_lost: bool = False


def encode(payload: msgspec.Struct | list[int] | int) -> bytes:
    """Encode the payload of an event."""
    return msgspec.msgpack.encode(payload)


_hello = msgspec.msgpack.Decoder(HelloEvent).decode
_notice = msgspec.msgpack.Decoder(NoticeEvent).decode
_ended = msgspec.msgpack.Decoder(RunEndedEvent).decode
_exit_status = msgspec.msgpack.Decoder(ExitStatusEvent).decode
_launch_ended = msgspec.msgpack.Decoder(LaunchEndedEvent).decode
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
    """Apply one event to ``fold``; ``decoded`` spares decoding a batch that ingest has decoded.

    An event that only a node has changes nothing at a root.
    """
    if kind is EventKind.BATCH:
        fold.batch(stream, decoded or decode_journalled(payload), now_ns)
    elif kind in _NODE_EFFECTS:
        if isinstance(fold, NodeFold):
            _NODE_EFFECTS[kind](fold, payload)
    else:
        _EFFECTS[kind](fold, stream, payload, now_ns)


def _hello_of(fold: Fold, stream: bytes, payload: bytes, now_ns: int) -> None:
    hello = _hello(payload)
    fold.hello(stream, hello.rank, hello.world_size, hello.attempt, hello.names, now_ns)


def _depart(fold: Fold, payload: bytes, how: str, now_ns: int) -> None:
    for rank in _ranks(payload):
        fold.depart(rank, how, now_ns)


def _vanish(fold: Fold, payload: bytes, now_ns: int) -> None:
    for rank in _ranks(payload):
        fold.vanish(rank, now_ns)


def _note_exit_status(fold: Fold, payload: bytes) -> None:
    status = _exit_status(payload)
    if status.attempt == fold.attempt.number:
        fold.exit_status(status.rank, status.code)


def _end_launch(fold: Fold, payload: bytes) -> None:
    ended = _launch_ended(payload)
    fold.end(ended.status, ended.own, ended.reported)


def _end_by_root(fold: NodeFold, payload: bytes) -> None:
    ended = _ended(payload)
    fold.ended_by_root(ended.status, ended.reason)


def _add_notice(fold: Fold, payload: bytes) -> None:
    notice = _notice(payload)
    fold.notices.append(notice.text)
    # A node gives its values no ordinals.
    if notice.journal_lost and isinstance(fold, RootFold):
        fold.skip_ordinals(_ORDINAL_JUMP)


_EFFECTS: dict[EventKind, Callable[[Fold, bytes, bytes, int], None]] = {
    EventKind.HELLO: _hello_of,
    EventKind.FLUSHED: lambda fold, stream, _, now_ns: fold.flushed(stream, now_ns),
    # A deadline only makes a tick: settling looks at the time.
    EventKind.DEADLINE: lambda *_: None,
    EventKind.LOST: lambda fold, _, payload, now_ns: _depart(fold, payload, "lost", now_ns),
    EventKind.ABSENT: lambda fold, _, payload, now_ns: _depart(fold, payload, "absent", now_ns),
    EventKind.GAP: lambda fold, _, payload, __: fold.gap(Gap.from_bytes(payload).points),
    EventKind.REJECTED: lambda fold, *_: fold.rejected(),
    EventKind.OVERFLOW: lambda fold, _, payload, __: fold.close_oldest(_count(payload)),
    EventKind.LAUNCH_ENDED: lambda fold, _, payload, __: _end_launch(fold, payload),
    EventKind.EXIT_STATUS: lambda fold, _, payload, __: _note_exit_status(fold, payload),
    EventKind.VANISHED: lambda fold, _, payload, now_ns: _vanish(fold, payload, now_ns),
    EventKind.STARTED: lambda fold, _, __, now_ns: fold.restart_timers(now_ns),
    EventKind.NOTICE: lambda fold, _, payload, __: _add_notice(fold, payload),
}
_NODE_EFFECTS: dict[EventKind, Callable[[NodeFold, bytes], None]] = {
    EventKind.FORWARD: lambda fold, payload: fold.forward(
        everything=_count(payload) == ForwardExtent.EVERYTHING
    ),
    EventKind.ENDED_BY_ROOT: _end_by_root,
    EventKind.FLUSHES_WANTED: lambda fold, payload: fold.want_flushes(wanted=bool(_count(payload))),
}

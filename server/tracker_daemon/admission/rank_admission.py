"""The interface by which the daemon admits ranks and informs connected ones.

A root decides by itself (``root_admission``); a node's daemon asks its root (``upstream.node_admission``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tracker_daemon.ingest.session import Session
from tracker_daemon.journal.rows import Backlog
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.runs.run import Run
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

_RANKS_PER_FLUSH_SECOND = 1_000


class RankAdmission(Protocol):
    """On the event loop."""

    def restored(self, run: Run, backlog: Backlog) -> None:
        """A run was taken up from the journal."""

    async def admit(self, hello: pb.Hello) -> tuple[Session, pb.DaemonMessage]:
        """Let a client in, or raise what the server answers instead."""

    async def admit_rank(self, request: pb.AdmitRequest) -> pb.AdmitReply:
        """Decide about a rank that has come to a node's daemon, or raise what the server answers instead."""

    def left(self, session: Session) -> None:
        """A connection has ended; the rank may come back."""

    def ticked(self, live: LiveRun) -> None:
        """Something of a run was committed."""

    def poll(self) -> None:
        """Do what is due; called several times a second."""

    def end_outstayed(self, runs: list[Run]) -> None:
        """The job is about to be killed, with the ranks of ``runs`` that are still connected."""

    def end_deserted(self, runs: list[Run]) -> None:
        """The daemon ends, and no rank of ``runs`` is connected any more."""

    def end_idle(self) -> None:
        """The daemon ends, since nobody needs it."""

    async def close(self) -> None:
        """The daemon ends, and all is delivered that will be."""


def flush_interval_ms(given_s: float | None, connections: Callable[[], int]) -> int:
    """How often clients send: as it is given, or growing with their number.

    Ten thousand then cost the daemon about what a hundred do.
    """
    if given_s is None:
        grown = connections() / _RANKS_PER_FLUSH_SECOND
        given_s = min(max(grown, limits.FLUSH_INTERVAL_MIN_S), limits.FLUSH_INTERVAL_MAX_S)
    return int(given_s * 1000)

"""The interface by which the daemon admits ranks and informs connected ones.

A root decides by itself (``root_admission``); a node's daemon asks its root (``upstream.node_admission``).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from tracker_daemon.ingest.session import Session
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.runs.run import Run
from tracker_daemon.runs.stored_runs import RestoredRun
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

_RANKS_PER_FLUSH_SECOND = 1_000


class RankAdmission(Protocol):
    """Admission as the daemon uses it, of a root or of a node's daemon. On the event loop."""

    async def admit(self, hello: pb.Hello) -> tuple[Session, pb.DaemonMessage]:
        """Admit a client; return its session and the Welcome, or raise the error for the client."""

    async def admit_rank(self, request: pb.AdmitRequest) -> pb.AdmitReply:
        """Decide about a rank of a node's daemon, or raise the error for that daemon."""

    def remove(self, session: Session) -> None:
        """Remove an ended connection; its rank may reconnect."""

    def add_restored(self, restored: RestoredRun) -> None:
        """Add a run that was restored from the journal."""

    def on_commit(self, live: LiveRun) -> None:
        """React to a commit of a run's events."""

    def poll(self) -> None:
        """Do the work that is due; called several times a second."""

    def end_killed(self, runs: list[Run]) -> None:
        """End ``runs``: the job and their connected ranks are about to be killed."""

    def end_disconnected(self, runs: list[Run]) -> None:
        """End ``runs``: the daemon is ending, and none of their ranks is connected."""

    def end_all(self) -> None:
        """End every run: the daemon ends by itself, since no rank needs it."""

    async def close(self) -> None:
        """Close what is open, after the last delivery."""


def flush_interval_ms(given_s: float | None, connections: Callable[[], int]) -> int:
    """Return the milliseconds between a client's batches: ``given_s``, or growing with the connections.

    Ten thousand clients then cost the daemon about as much as a hundred.
    """
    if given_s is None:
        grown = connections() / _RANKS_PER_FLUSH_SECOND
        given_s = min(max(grown, limits.FLUSH_INTERVAL_MIN_S), limits.FLUSH_INTERVAL_MAX_S)
    return int(given_s * 1000)

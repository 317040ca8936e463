"""Claims to a rank: decides which of two processes gets it.

A process claims a rank that another one holds if a launcher has started the rank again. It also does so if
two processes were given the same rank by mistake. The daemon cannot distinguish the cases: the holder may be
dead, its host may have vanished with a half-open connection, or its connection may be broken for a moment.
So the daemon asks the holder, and gives the rank away only if the holder shows no sign of life:

* A connected holder is challenged in its stream, and has ``patience_s`` seconds to answer.
* A disconnected holder keeps its rank for as long after its connection broke, and answers by reconnecting.
  After a restart of the daemon it has as long as a client may need to find the daemon again.
* A holder that has finished, was lost, or was restarted by torchrun is not asked.

If the holder answers, the new process is refused with an error that names both, and tries again later;
unless only the order of set-up calls led it to this run: then it looks for another run. If the holder is
silent, the new process is admitted in the next attempt; later data of the silent holder counts as late in its
own attempt.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Container, Iterable

from tracker_daemon.errors import RankHeld
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Admission, Claim, Run, Stream
from tracker_protocol.v1 import tracker_pb2 as pb

_NONCE_BYTES = 16


class Claims:
    """Admits clients to ``registry``, after asking the holder of the rank. On the event loop."""

    def __init__(
        self, registry: Registry, patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._patience_s = patience_s
        self._clock = clock

    async def admit(self, hello: pb.Hello, excluded: Container[str] = ()) -> Admission:
        """Find or make the stream of a Hello once no living process holds its rank.

        ``excluded`` are the ids of runs that it does not join.

        Raises:
            RankHeld: a living process holds the rank.
            ClientRefused: a limit is reached.
            ProtocolError, SettingsError: see :meth:`Registry.admit`.
        """
        silent: set[Stream] = set()
        while rivals := [s for s in self._registry.rivals(hello, excluded) if s not in silent]:
            for rival in rivals:
                if not await self._shows_life(rival):
                    silent.add(rival)
                elif rival.rank == hello.process.rank:
                    raise RankHeld(_refusal(rival, hello.process), rival.run.run_id)
        admission = self._registry.admit(hello, excluded)
        if admission.new_attempt:
            _notify_former_attempt(admission.stream)
        return admission

    async def _shows_life(self, rival: Stream) -> bool:
        """Return True if the holder of a rank shows in time that it lives."""
        claim = rival.claim
        if claim is None or claim.answered.is_set() or self._clock() >= claim.until_s:
            claim = rival.claim = self._ask(rival)
        try:
            await asyncio.wait_for(claim.answered.wait(), claim.until_s - self._clock())
        except asyncio.TimeoutError:
            return False
        return True

    def _ask(self, rival: Stream) -> Claim:
        nonce = secrets.token_bytes(_NONCE_BYTES)
        if rival.connection is None:
            return Claim(nonce, rival.reserved_until_s)
        rival.connection.challenge(nonce)
        return Claim(nonce, self._clock() + self._patience_s)


def _refusal(holder: Stream, claimant: pb.Process) -> str:
    return (
        f"rank {claimant.rank} of run {holder.run.run_id} is held by {holder.label()}, which lives; "
        f"process {claimant.pid} on {claimant.host} claims it too ({claimant.rank_source}). Give each "
        "process its own rank: set TRACKER_RANK, or launch both from one launcher; two launches at once "
        "each need a TRACKER_LAUNCH_ID of their own"
    )


def _notify_former_attempt(newcomer: Stream) -> None:
    run = newcomer.run
    text = (
        f"attempt {run.attempt} of run {run.run_id} has begun, since {newcomer.label()} joined as rank "
        f"{newcomer.rank}; what this process of the attempt before still logs counts as late"
    )
    for stream in _former_attempt(run):
        if stream.connection is not None:
            stream.connection.send_notice(text)


def _former_attempt(run: Run) -> Iterable[Stream]:
    return (
        stream for stream in run.streams.values() if stream.attempt == run.attempt - 1 and not stream.is_node
    )

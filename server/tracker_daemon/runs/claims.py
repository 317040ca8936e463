"""Two claimants of a rank: which of two processes is to have it.

A process claims a rank that another one holds when a launcher has started the rank again, and when two
processes were given the same rank by mistake. What the daemon sees is the same: the holder may be
dead, its host may be gone with the connection half open, its connection may be broken for a moment. So
it asks, and gives the rank away only if nothing shows that the holder lives:

* A connected holder is challenged in its stream, and has ``patience_s`` to answer.
* A disconnected holder's rank is reserved for as long after its connection broke (after a restart of
  the daemon, for as long as clients may take to find it again): it answers by coming back.
* A holder that finished, was lost, or whose torchrun has started its ranks again is not asked.

An answer: the new process is refused, with both named; it tries again later. Silence: it is admitted
in the next attempt. What the silent one still sends goes into its own attempt, as late.
"""

from __future__ import annotations

import asyncio
import secrets
import time
from collections.abc import Callable, Iterable

from tracker_daemon.errors import ClientRefused
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Admission, Claim, Run, Stream
from tracker_protocol.v1 import tracker_pb2 as pb

_NONCE_BYTES = 16


class Claims:
    """Admits clients to ``registry``, and asks first where a rank is held."""

    def __init__(
        self, registry: Registry, patience_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._patience_s = patience_s
        self._clock = clock

    async def admit(self, hello: pb.Hello) -> Admission:
        """Find or make the stream of a Hello, once nobody disputes its rank.

        Raises:
            ClientRefused: its rank is held by a process that lives, or a limit is reached.
            ProtocolError, SettingsError: see :meth:`Registry.admit`.
        """
        silent: set[Stream] = set()
        while rivals := [stream for stream in self._registry.rivals(hello) if stream not in silent]:
            for rival in rivals:
                if not await self._lives(rival):
                    silent.add(rival)
                elif rival.rank == hello.process.rank:
                    raise ClientRefused(_refusal(rival, hello.process))
        admission = self._registry.admit(hello)
        if admission.new_attempt:
            _tell_fenced(admission.stream)
        return admission

    async def _lives(self, rival: Stream) -> bool:
        """Whether the holder of a rank shows in time that it lives."""
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
        f"rank {claimant.rank} of run {holder.run.run_id} is held by {holder.described()}, which lives; "
        f"process {claimant.pid} on {claimant.host} claims it too ({claimant.rank_source}). Give each "
        "process its own rank: set TRACKER_RANK, or launch both from one launcher; two launches at once "
        "each need a TRACKER_LAUNCH_ID of their own"
    )


def _tell_fenced(newcomer: Stream) -> None:
    run = newcomer.run
    text = (
        f"attempt {run.attempt} of run {run.run_id} has begun, since {newcomer.described()} came as rank "
        f"{newcomer.rank}; what this process of the attempt before still logs counts as late"
    )
    for stream in _fenced(run):
        if stream.connection is not None:
            stream.connection.tell(text)


def _fenced(run: Run) -> Iterable[Stream]:
    return (
        stream for stream in run.streams.values() if stream.attempt == run.attempt - 1 and not stream.is_node
    )

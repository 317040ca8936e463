"""The meeting of ranks in a run: a rank waits for its run before it is admitted.

The project, the name and the options of a run are its primary rank's. So the primary rank opens a run at
once, and every other rank waits until there is one that fits (``identity``): for ``primary_wait_s`` at most,
while its client keeps its values. After that it opens a run itself, which the primary rank later joins.

A rank with a name of its own waits NAME_WAIT_S before it joins a run by order alone: a run of its name may be
about to begin, if the ranks of a script make their trackers in different orders.

Two launches at once may have the same key. If only the order of set-up calls leads a rank into the run of the
other launch, a living process there holds its rank. Then the rank looks for another run.

One call waits for MEETING_SLICE_S at most, which is shorter than the patience of a client. Then the client is
asked to connect again. The whole wait counts from the first call.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Container

import structlog

from tracker_daemon.errors import PrimaryAwaited, RankHeld
from tracker_daemon.runs.claims import Claims
from tracker_daemon.runs.identity import Fit
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Admission
from tracker_protocol import limits
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)


class Meeting:
    """Lets ranks wait for their runs. On the event loop."""

    def __init__(
        self,
        registry: Registry,
        claims: Claims,
        primary_wait_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._registry = registry
        self._claims = claims
        self._primary_wait_s = primary_wait_s
        self._clock = clock
        self._since_s: dict[bytes, float] = {}
        """By stream: the time of the first call that had to wait."""
        self._opened = asyncio.Event()

    async def admit(self, hello: pb.Hello) -> Admission:
        """Find or make the stream of a Hello, in the run of its launch.

        Raises:
            PrimaryAwaited: the rank has to wait longer than this call may; the client should call again.
            ClientRefused, ProtocolError, SettingsError: see :meth:`Claims.admit`.
        """
        others: set[str] = set()
        while True:
            await self._wait(hello, others)
            found = self._registry.find(hello, others)
            try:
                admission = await self._claims.admit(hello, others)
            except RankHeld as held:
                if found is None or found.fit is not Fit.ORDER:
                    raise
                others.add(held.run_id)
                continue
            if admission.new_run:
                self._opened.set()
                self._opened = asyncio.Event()
            return admission

    async def _wait(self, hello: pb.Hello, excluded: Container[str]) -> None:
        """Wait until the process of ``hello`` may be admitted."""
        called_s = self._clock()
        while (due_s := self._due_s(hello, excluded)) is not None:
            now_s = self._clock()
            if hello.stream_id not in self._since_s:
                log.info("a rank waits for its run", rank=hello.process.rank, host=hello.process.host)
            since_s = self._since_s.setdefault(hello.stream_id, called_s)
            if now_s >= since_s + due_s:
                break
            if now_s >= called_s + limits.MEETING_SLICE_S:
                self._forget_old(now_s)
                raise PrimaryAwaited(self._sentence(hello))
            until_s = min(since_s + due_s, called_s + limits.MEETING_SLICE_S)
            await self._until_opened(until_s - now_s)
        self._since_s.pop(hello.stream_id, None)

    async def _until_opened(self, timeout_s: float) -> None:
        try:
            await asyncio.wait_for(self._opened.wait(), timeout_s)
        except asyncio.TimeoutError:
            return

    def _due_s(self, hello: pb.Hello, excluded: Container[str]) -> float | None:
        """Return how long the rank waits from its first call on; None if it does not wait."""
        if hello.stream_id in self._registry.streams or self._registry.decides(hello):
            return None
        found = self._registry.find(hello, excluded)
        if found is None or found.fit is Fit.LATE_START:
            return self._primary_wait_s
        if found.fit is Fit.ORDER and hello.launch.name:
            return min(self._primary_wait_s, limits.NAME_WAIT_S)
        return None

    def _forget_old(self, now_s: float) -> None:
        """Forget clients that have not called again."""
        longest_s = self._primary_wait_s + limits.CONNECT_TIMEOUT_S + limits.RECONNECT_BACKOFF_MAX_S
        self._since_s = {
            stream: since for stream, since in self._since_s.items() if now_s - since < longest_s
        }

    def _sentence(self, hello: pb.Hello) -> str:
        return (
            f"rank {hello.process.rank} waits up to {self._primary_wait_s:.0f} s for rank "
            f"{self._registry.primary_of(hello)}, which decides the run's project, name and options"
        )

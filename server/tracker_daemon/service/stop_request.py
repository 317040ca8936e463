"""The request to end the daemon: from a signal, a Stop call, an idle daemon or a failure."""

from __future__ import annotations

import asyncio

import structlog

log = structlog.get_logger(__name__)


class StopRequest:
    """The request, which exists before all parts that can ask the daemon to end. On the event loop."""

    def __init__(self, drain_timeout_s: float) -> None:
        self.drain_timeout_s = drain_timeout_s
        """The longest time, in seconds, for the last deliveries."""
        self.job_status: int | None = None
        """The exit status of the job, if a Stop call reported that the job has ended."""
        self.failure: BaseException | None = None
        """The error after which nothing more is acknowledged."""
        self.has_home = True
        """False if the state directory has been removed: then nothing is written any more."""
        self.draining = False
        """True once the daemon admits no more work and delivers the rest."""
        self._asked = asyncio.Event()

    @property
    def is_asked(self) -> bool:
        """True once anything has asked the daemon to end."""
        return self._asked.is_set()

    async def wait(self) -> None:
        """Wait until the daemon is asked to end."""
        await self._asked.wait()

    def ask(self) -> None:
        """Ask the daemon to deliver the rest and end."""
        self._asked.set()

    def skip_drain(self) -> None:
        """Do not wait for the last deliveries; the journal keeps the rest."""
        self.drain_timeout_s = 0.0

    def leave(self) -> None:
        """End at once: the state directory has been removed, and nothing was left to do."""
        self.has_home = False
        self.skip_drain()
        self.ask()

    def fail(self, error: BaseException) -> None:
        """Ask the daemon to end at once after ``error``."""
        self.failure = error
        log.error("the daemon cannot continue; nothing more is acknowledged", exc_info=error)
        self.ask()

"""Periodic work: what time alone changes, such as lost ranks, waiting deliveries and an idle daemon."""

from __future__ import annotations

import asyncio
import time

import structlog

from tracker_daemon.admission.parts import CommonParts, RoleParts
from tracker_daemon.contents.care import ContentCare
from tracker_daemon.lifecycle.idle import IdleWatch
from tracker_daemon.service.rest import Rest
from tracker_daemon.service.stop_request import StopRequest
from tracker_protocol import limits

log = structlog.get_logger(__name__)
_INTERVAL_S = 0.2


class Care:
    """Polls the parts in a task of its own. On the event loop."""

    def __init__(
        self,
        common: CommonParts,
        role: RoleParts,
        contents: ContentCare,
        idle: IdleWatch,
        stop: StopRequest,
        rest: Rest | None,
    ) -> None:
        """Make it; ``rest``: of a script's own daemon, else None."""
        self._registry = common.registry
        self._endings = common.endings
        self._admission = role.admission
        self._delivery = role.delivery
        self._contents = contents
        self._idle = idle
        self._stop = stop
        self._rest = rest

    def start(self) -> asyncio.Task[None]:
        """Start the work; its error ends the daemon, since lost ranks would stay undetected without it."""
        task = asyncio.create_task(self._run())
        task.add_done_callback(self._report_error)
        return task

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(_INTERVAL_S)
            self._admission.poll()
            self._delivery.poll()
            self._leave_if_homeless()
            self._stop_if_idle()
            self._contents.poll()
            self._delivery.forget_ended(limits.RUNS_ENDED_MAX)

    def _leave_if_homeless(self) -> None:
        if self._rest is None or self._stop.is_asked or self._registry.connections:
            return
        if self._rest.is_homeless:
            log.info("ending by itself", reason="the state directory has been removed")
            self._stop.leave()

    def _stop_if_idle(self) -> None:
        reason = self._idle.reason(
            time.monotonic(),
            connected=self._registry.connections > 0,
            busy=not self._delivery.is_settled(),
            progress=self._delivery.progress(),
            has_launcher=self._endings.has_launcher,
        )
        if reason is not None and not self._stop.is_asked:
            log.info("ending by itself", reason=reason)
            self._admission.end_all()
            self._stop.ask()

    def _report_error(self, task: asyncio.Task[None]) -> None:
        error = None if task.cancelled() else task.exception()
        if error is not None and self._stop.failure is None:
            self._stop.fail(error)

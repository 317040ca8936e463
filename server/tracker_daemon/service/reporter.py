"""The status document of a running daemon."""

from __future__ import annotations

import os
import socket
import time

from tracker_daemon.admission.parts import CommonParts
from tracker_daemon.contents.store import ContentStore
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.service.stop_request import StopRequest
from tracker_daemon.status.document import DaemonStatus, StatusDocument
from tracker_daemon.status.facts import JournalFacts, read_facts
from tracker_daemon.status.report import contents_status, status_document
from tracker_daemon.version import VERSION


class StatusReporter:
    """Collects the status document from the daemon's parts. On the event loop."""

    def __init__(
        self,
        common: CommonParts,
        pumps: PumpSet,
        contents: ContentStore,
        stop: StopRequest,
        endpoints: tuple[str, ...],
        launch_id: str,
    ) -> None:
        self._registry = common.registry
        self._recorder = common.recorder
        self._journal_calls = common.journal_calls
        self._directory = common.journal.directory
        self._pumps = pumps
        self._contents = contents
        self._stop = stop
        self._endpoints = endpoints
        self._launch_id = launch_id
        self._started_s = time.monotonic()

    async def document(self) -> StatusDocument:
        """Return the status now.

        Raises:
            JournalError: the journal has failed or is closed.
        """
        facts = await self._journal_calls.run(
            lambda journal: read_facts(journal, self._registry, self._recorder.summary_of)
        )
        return status_document(self._daemon(facts), facts, self._registry, self._pumps)

    def _daemon(self, facts: JournalFacts) -> DaemonStatus:
        return DaemonStatus(
            version=VERSION,
            pid=os.getpid(),
            host=socket.gethostname(),
            uptime_s=round(time.monotonic() - self._started_s, 3),
            state_dir=str(self._directory),
            endpoints=self._endpoints,
            journal_bytes=facts.journal_bytes,
            epoch=facts.epoch,
            draining=self._stop.draining,
            launch_id=self._launch_id,
            contents=contents_status(self._contents.totals()),
        )

"""Waits for the daemon of another node, which may start later than this node."""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable

from tracker_daemon.endpoints.control import DaemonClient
from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.errors import DaemonNotRunning, EndpointError
from tracker_daemon.launch.signals import ENDING, SignalInbox
from tracker_daemon.status import document as status_document
from tracker_daemon.status.document import StatusDocument

FIND_TIMEOUT_S = 300.0
"""The nodes of a job start their commands within minutes of one another."""
FIND_RETRY_S = 0.5
STATUS_TIMEOUT_S = 5.0
PATIENCE_S = 5.0


def await_daemon(
    find: Callable[[], EndpointInfo], purpose: str, inbox: SignalInbox
) -> StatusDocument | signal.Signals:
    """Return the status of the daemon that ``find`` locates, once it answers; or a signal that arrives first.

    ``purpose`` completes messages about the daemon, such as "to join".

    Raises:
        EndpointError: no daemon answered in time, or the daemon refuses the call.
    """
    begun, announced = time.monotonic(), False
    while True:
        try:
            return status_document.decode(DaemonClient(find()).status(STATUS_TIMEOUT_S))
        except DaemonNotRunning as error:
            waited = time.monotonic() - begun
            if waited > FIND_TIMEOUT_S:
                raise EndpointError(f"no daemon {purpose} within {FIND_TIMEOUT_S:.0f} s: {error}") from error
            if waited > PATIENCE_S and not announced:
                announced = True
                sys.stderr.write(f"tracker-daemon: waiting for the daemon {purpose}: {error}\n")
        for number in inbox.wait(FIND_RETRY_S):
            if number in ENDING:
                return number

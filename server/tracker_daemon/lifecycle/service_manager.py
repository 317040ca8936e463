"""What the daemon tells the service manager that started it: ready, alive, how it stands, about to end.

Source of the protocol: sd_notify(3) and sd_watchdog_enabled(3). Each message is one datagram of
``NAME=value`` lines to the socket that NOTIFY_SOCKET names. Without one nothing is sent. The variables
are taken out of the environment, so that no process that the daemon starts speaks in its name.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import Awaitable, Callable, MutableMapping

import structlog

from tracker_daemon.errors import TrackerDaemonError

log = structlog.get_logger(__name__)
_MICROSECONDS = 1_000_000
_SIGNS_PER_TIMEOUT = 3
"""How often it is told within the watchdog's time that the daemon is alive; two is the least."""
_STATUS_INTERVAL_S = 10.0


class ServiceManager:
    """The service manager at ``address`` (None: there is none).

    ``watchdog_s`` is after how many seconds of silence it restarts the daemon; None: it does not watch.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s

    @staticmethod
    def of(environ: MutableMapping[str, str]) -> ServiceManager:
        """The one that ``environ`` names, which then names it no more."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        watched = microseconds.isdigit() and pid in ("", str(os.getpid()))
        return ServiceManager(address, int(microseconds) / _MICROSECONDS if watched else None)

    def ready(self) -> None:
        """Clients can connect from now on."""
        self._tell("READY=1")

    def stopping(self) -> None:
        """The daemon delivers what is left, and ends."""
        self._tell("STOPPING=1\nSTATUS=delivering what is left")

    async def keep_informed(
        self, probe: Callable[[], Awaitable[object]], describe: Callable[[], str]
    ) -> None:
        """Tell again and again that the daemon is alive, until cancelled.

        ``probe`` is awaited before each sign of life and so has to pass through whatever could hang;
        ``describe`` gives one line for people.
        """
        if self._address is None:
            return
        signs_s = (self.watchdog_s or float("inf")) / _SIGNS_PER_TIMEOUT
        while True:
            try:
                await probe()
            except TrackerDaemonError:
                return  # what has failed ends the daemon; it is not alive for much longer
            self._tell(f"WATCHDOG=1\nSTATUS={describe()}")
            await asyncio.sleep(min(_STATUS_INTERVAL_S, signs_s))

    def _tell(self, message: str) -> None:
        if self._address is None:
            return
        address = self._address
        if address.startswith("@"):  # a name without a file, which Linux writes with a zero byte
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
                out.sendto(message.encode(), address)
        except OSError as error:
            log.warning("the service manager cannot be told", reason=error.strerror, message=message)

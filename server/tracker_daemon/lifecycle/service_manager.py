"""Notifies the service manager that started the daemon: ready, alive, status, stopping.

Source of the protocol: sd_notify(3) and sd_watchdog_enabled(3). Each message is one datagram of
``NAME=value`` lines to the socket that NOTIFY_SOCKET names. Without a socket nothing is sent. The variables
are removed from the environment, so that no child process sends messages in the daemon's name.
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
"""Signs of life sent within the watchdog's time. At least two are needed."""
_STATUS_INTERVAL_S = 10.0


class ServiceManager:
    """The service manager at ``address``; None: there is none.

    It restarts the daemon after ``watchdog_s`` seconds of silence; None: it does not watch.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self._address = address
        self.watchdog_s = watchdog_s

    @staticmethod
    def of(environ: MutableMapping[str, str]) -> ServiceManager:
        """Return the service manager that ``environ`` names, and remove its variables from there."""
        address = environ.pop("NOTIFY_SOCKET", None)
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        watched = microseconds.isdigit() and pid in ("", str(os.getpid()))
        return ServiceManager(address, int(microseconds) / _MICROSECONDS if watched else None)

    def ready(self) -> None:
        """Notify that clients can connect from now on."""
        self._send("READY=1")

    def stopping(self) -> None:
        """Notify that the daemon delivers the rest and ends."""
        self._send("STOPPING=1\nSTATUS=delivering what is left")

    async def keep_informed(
        self, probe: Callable[[], Awaitable[object]], describe: Callable[[], str]
    ) -> None:
        """Send signs of life and the status at intervals, until cancelled.

        ``probe`` is awaited before each sign of life, so it must pass through each part that could hang.
        ``describe`` returns one line for people.
        """
        if self._address is None:
            return
        signs_s = (self.watchdog_s or float("inf")) / _SIGNS_PER_TIMEOUT
        while True:
            try:
                await probe()
            except TrackerDaemonError:
                return  # the failure ends the daemon soon
            self._send(f"WATCHDOG=1\nSTATUS={describe()}")
            await asyncio.sleep(min(_STATUS_INTERVAL_S, signs_s))

    def _send(self, message: str) -> None:
        if self._address is None:
            return
        address = self._address
        if address.startswith("@"):  # Linux's abstract name, which begins with a zero byte
            address = "\0" + address[1:]
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK) as out:
                out.sendto(message.encode(), address)
        except OSError as error:
            log.warning("the service manager cannot be notified", reason=error.strerror, message=message)

"""The rest of a script's own daemon: it writes nothing more below the output directory while nobody needs it.

A script may remove its output directory right after ``finish()``. So everything that the daemon would write a
moment later is written before ``finish()`` returns: the ends of the runs' manifests, the last status, and the
removal of contents that every backend has. If the directory is then removed, the daemon ends and makes
nothing anew.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from tracker_daemon.contents.care import ContentCare
from tracker_daemon.delivery.run_delivery import RunDelivery
from tracker_daemon.errors import JournalError


class Rest:
    """Brings a daemon to rest. On the event loop.

    ``directory`` is the state directory; ``write_status`` writes the last status there.
    """

    def __init__(
        self,
        delivery: RunDelivery,
        contents: ContentCare,
        directory: Path,
        write_status: Callable[[], Awaitable[None]],
    ) -> None:
        self._delivery = delivery
        self._contents = contents
        self._directory = directory
        self._write_status = write_status
        self._progress: int | None = None
        """The progress of the delivery at the last rest."""

    async def begin(self) -> None:
        """Write what is still to be written, if no run is running and everything is delivered."""
        if not self._delivery.is_settled():
            return
        progress = self._delivery.progress()
        try:
            await self._delivery.close_directories()
            await self._contents.remove_now()
            await self._write_status()
        except (JournalError, OSError):  # the daemon is ending, or its directory is being removed
            return
        self._progress = progress

    @property
    def is_lasting(self) -> bool:
        """True if nothing has happened since the rest began."""
        return self._delivery.is_settled() and self._progress == self._delivery.progress()

    @property
    def is_homeless(self) -> bool:
        """True if nothing is left to do and the state directory has been removed."""
        return self._delivery.is_settled() and not self._directory.exists()

"""The uploads' own loop: contents go to the daemon one after another, on a connection of their own.

So that a file of any size delays no metric: neither this thread nor its connection is the sender's. An
item is told of once all its contents are durable, and not before. A broken connection is tried again for
as long as the tracker lives, and goes on where it broke off; a daemon that has no room is asked again.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from queue import SimpleQueue

from tracker_client.endpoints.endpoint import EndpointSource
from tracker_client.errors import EndpointError
from tracker_client.staging.items import ContentReference, ItemDraft
from tracker_client.staging.sources import Source, SourceUnusable, digest_of
from tracker_client.transport.upload_call import UploadBrokenOff, UploadChannel, UploadMismatch, UploadRefused
from tracker_client.values.refusals import Refusals
from tracker_protocol import limits
from tracker_protocol.backoff import Backoff

_MISMATCHES_MAX = 3
logger = logging.getLogger("tracker_client")


class UploadsStopped(Exception):
    """The tracker ends; what is not uploaded will not be."""


@dataclass(frozen=True)
class Upload:
    """An item's contents. ``sources`` is called on the uploading thread, which then frees ``held_bytes``."""

    draft: ItemDraft
    sources: Callable[[], Iterator[Source]]
    held_bytes: int = 0


@dataclass(frozen=True)
class UploadProgress:
    """Where the uploads are: items that wait, and how far the content in progress is, in bytes."""

    waiting: int = 0
    key: str = ""
    sent_bytes: int = 0
    size_bytes: int = 0

    @property
    def percent(self) -> int:
        """How much of the content in progress is sent."""
        return 100 * self.sent_bytes // self.size_bytes if self.size_bytes else 0


class Uploads:
    """One tracker's uploads. The thread is started with the first of them.

    ``may_begin`` is set once the daemon has answered, and ``wanted`` then tells whether it records this
    rank's items. ``settled(draft, ok)`` is called on the thread, once for each upload that was submitted.
    """

    def __init__(
        self,
        source: EndpointSource,
        may_begin: threading.Event,
        wanted: Callable[[], bool],
        settled: Callable[[ItemDraft, bool], None],
        refusals: Refusals,
    ) -> None:
        self._source = source
        self._may_begin = may_begin
        self._wanted = wanted
        self._settled = settled
        self._refusals = refusals
        self._lock = threading.Lock()
        self._queue: SimpleQueue[Upload] = SimpleQueue()
        self._waiting = 0
        self._held_bytes = 0
        self._started = False
        self._stopped = threading.Event()
        self._channel: UploadChannel | None = None
        self._failures = 0
        self._backoff = Backoff(2 * limits.RECONNECT_BACKOFF_MIN_S, limits.UPLOAD_BACKOFF_MAX_S)
        self._progress = UploadProgress()

    # ---- for other threads -----------------------------------------------------------------------

    def submit(self, upload: Upload) -> bool:
        """Queue an upload; False where too many or too much wait already."""
        with self._lock:
            too_many = self._waiting >= limits.CLIENT_UPLOADS_WAITING_MAX
            too_much = self._held_bytes + upload.held_bytes > limits.CLIENT_HELD_CONTENT_BYTES
            if too_many or (too_much and self._held_bytes):
                return False
            if not self._started:
                threading.Thread(target=self._main, name="tracker-uploads", daemon=True).start()
                self._started = True
            self._waiting += 1
            self._held_bytes += upload.held_bytes
            self._queue.put(upload)
        return True

    def progress(self) -> UploadProgress:
        """Where the uploads are now."""
        now = self._progress
        return UploadProgress(self._waiting, now.key, now.sent_bytes, now.size_bytes)

    def stop(self) -> None:
        """End at once; what is in progress breaks off."""
        self._stopped.set()
        with self._lock:
            if self._channel is not None:
                self._channel.close()

    # ---- the loop --------------------------------------------------------------------------------

    def _main(self) -> None:
        while not self._stopped.is_set():
            upload = self._queue.get()
            try:
                ok = self._carry_out(upload)
            except UploadsStopped:
                return
            # This thread's outermost frame: a source may be the user's own code.
            except Exception as error:  # noqa: BLE001
                self._refusals.refuse(upload.draft.key, f"preparing it raised {error!r}; it is not recorded")
                ok = False
            with self._lock:
                self._waiting -= 1
                self._held_bytes -= upload.held_bytes
            self._progress = UploadProgress()
            upload.draft.failed = not ok
            self._settled(upload.draft, ok)

    def _carry_out(self, upload: Upload) -> bool:
        while not self._may_begin.wait(0.2):
            self._require_going_on()
        if not self._wanted():
            return False
        try:
            contents = [self._store(upload.draft.key, source) for source in upload.sources()]
        except (SourceUnusable, UploadRefused) as error:
            self._refusals.refuse(upload.draft.key, str(error))
            return False
        upload.draft.contents = tuple(contents)
        return True

    def _store(self, key: str, source: Source) -> ContentReference:
        try:
            size_bytes = source.open()
            self._progress = UploadProgress(0, key, 0, size_bytes)
            sha256 = digest_of(source)
            source.check()
            self._send(key, source, sha256, size_bytes)
            return ContentReference(sha256, size_bytes, source.path)
        finally:
            source.close()

    def _send(self, key: str, source: Source, sha256: bytes, size_bytes: int) -> None:
        """Try until the daemon has it."""
        report = _Report(key, source.path, size_bytes)

        def chunks(offset: int) -> Iterator[bytes]:
            for chunk in source.chunks(offset):
                yield chunk
                offset += len(chunk)
                self._progress = UploadProgress(0, key, offset, size_bytes)
                report.tell(offset)
            source.check()

        mismatches = 0
        while True:
            self._require_going_on()
            try:
                self._connected().send(sha256, size_bytes, chunks)
            except (UploadBrokenOff, EndpointError) as error:
                self._lose(key, error)
            except UploadMismatch as error:
                mismatches += 1
                source.check()
                if mismatches == _MISMATCHES_MAX:
                    raise UploadRefused(f"{source.path or key}: {error}; it is not recorded") from error
            else:
                self._failures = 0
                return

    def _require_going_on(self) -> None:
        if self._stopped.is_set():
            raise UploadsStopped

    # ---- the connection --------------------------------------------------------------------------

    def _connected(self) -> UploadChannel:
        channel = self._channel
        if channel is None:
            endpoint = self._source.read()
            address = endpoint.addresses[self._failures % len(endpoint.addresses)]
            channel = UploadChannel(address, endpoint)
            with self._lock:
                self._channel = channel
        return channel

    def _lose(self, key: str, error: Exception) -> None:
        """The connection is gone, or the daemon has no room: when to try again."""
        self._require_going_on()
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        self._failures += 1
        if isinstance(error, UploadBrokenOff) and error.daemon_full:
            self._refusals.warn_once(key, f"{error}; trying again")
        if self._stopped.wait(self._backoff.wait_s(self._failures)):
            raise UploadsStopped


class _Report:
    """Tells now and then how far a large content is."""

    def __init__(self, key: str, path: str, size_bytes: int) -> None:
        self._what = f"{key!r} ({path})" if path else repr(key)
        self._size_bytes = size_bytes
        self._told_at = time.monotonic()
        self._told_bytes: int | None = None

    def tell(self, sent_bytes: int) -> None:
        """``sent_bytes`` are sent by now."""
        now = time.monotonic()
        waited_s = now - self._told_at
        if self._size_bytes < limits.UPLOAD_PROGRESS_FROM_BYTES or (
            waited_s < limits.UPLOAD_PROGRESS_EVERY_S and sent_bytes < self._size_bytes
        ):
            return
        rate = (sent_bytes - (self._told_bytes or 0)) / max(waited_s, 1e-3) / 1e6
        percent, total = 100 * sent_bytes // self._size_bytes, self._size_bytes / 1e6
        logger.info("uploading %s: %d %% of %.0f MB, %.0f MB/s", self._what, percent, total, rate)
        self._told_at, self._told_bytes = now, sent_bytes

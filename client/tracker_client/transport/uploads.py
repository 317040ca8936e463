"""The uploads' own loop: it sends contents to the daemon one after another, on a connection of their own.

Thread and connection are not the sender's, so that a file of any size delays no metric. An item is reported
as settled once all of its contents are durable. After a broken connection, an upload is tried again for as
long as the tracker lives, and continues where it broke off. It is also tried again if the daemon has no room.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from queue import SimpleQueue

from tracker_client.endpoints.endpoint import EndpointSource
from tracker_client.errors import EndpointError
from tracker_client.staging.items import ContentReference, ItemDraft
from tracker_client.staging.sources import Source, SourceUnusable, digest_of
from tracker_client.transport.upload_call import UploadBrokenOff, UploadChannel, UploadMismatch, UploadRefused
from tracker_client.values.refusals import Refusals
from tracker_client.values.tally import Room, Tally
from tracker_protocol import limits
from tracker_protocol.backoff import Backoff

_MISMATCHES_MAX = 3
_POLL_S = 0.005
"""The time between two looks at a content that is on its way from a device."""
logger = logging.getLogger("tracker_client")


class UploadsStopped(Exception):
    """The tracker ends; the remaining contents will not be uploaded."""


@dataclass(frozen=True)
class Upload:
    """An item's contents. The uploading thread calls ``sources``, uploads them, and frees ``held_bytes``."""

    draft: ItemDraft
    sources: Callable[[], Iterator[Source]]
    held_bytes: int = 0


@dataclass(frozen=True)
class UploadProgress:
    """The progress of uploads: the number of items that wait, and the bytes of the present content."""

    waiting: int = 0
    key: str = ""
    sent_bytes: int = 0
    size_bytes: int = 0

    @property
    def percent(self) -> int:
        """The part of the present content that is sent, in percent."""
        return 100 * self.sent_bytes // self.size_bytes if self.size_bytes else 0


class Uploads:
    """One tracker's uploads. The first upload starts the thread.

    ``may_begin`` is set once the daemon has answered. ``wanted()`` then returns True if the daemon records
    this rank's items; otherwise ``on_left_out`` receives their keys. The thread calls ``settled(draft, ok)``
    once for each upload that was submitted.
    """

    def __init__(
        self,
        source: EndpointSource,
        may_begin: threading.Event,
        wanted: Callable[[], bool],
        on_left_out: Callable[[str], None],
        settled: Callable[[ItemDraft, bool], None],
        refusals: Refusals,
    ) -> None:
        self._source = source
        self._may_begin = may_begin
        self._wanted = wanted
        self._on_left_out = on_left_out
        self._settled = settled
        self._refusals = refusals
        self._queue: SimpleQueue[Upload] = SimpleQueue()
        self._waiting = Room(limits.CLIENT_UPLOADS_WAITING_MAX)
        self._held_bytes = Tally()
        self._not_started = [True]  # whoever takes the element starts the thread
        self._lock = threading.Lock()  # guards _channel
        self._stopped = threading.Event()
        self._channel: UploadChannel | None = None
        self._failures = 0
        self._backoff = Backoff(2 * limits.RECONNECT_BACKOFF_MIN_S, limits.UPLOAD_BACKOFF_MAX_S)
        self._progress = UploadProgress()

    # ---- for other threads -----------------------------------------------------------------------

    def submit(self, upload: Upload) -> bool:
        """Queue an upload; return False if too many uploads or too many bytes wait already."""
        held_bytes = self._held_bytes.value
        if held_bytes and held_bytes + upload.held_bytes > limits.CLIENT_HELD_CONTENT_BYTES:
            return False
        if not self._waiting.reserve():
            return False
        self._held_bytes.add(upload.held_bytes)
        self._queue.put(upload)
        with suppress(IndexError):  # the thread is started
            self._not_started.pop()
            threading.Thread(target=self._main, name="tracker-uploads", daemon=True).start()
        return True

    def progress(self) -> UploadProgress:
        """Return the present progress."""
        now = self._progress
        return UploadProgress(self._waiting.held, now.key, now.sent_bytes, now.size_bytes)

    def stop(self) -> None:
        """End at once; the upload in progress breaks off."""
        self._stopped.set()
        with self._lock:
            if self._channel is not None:
                self._channel.close()

    # ---- the loop --------------------------------------------------------------------------------

    def _main(self) -> None:
        while not self._stopped.is_set():
            upload = self._queue.get()
            try:
                ok = self._upload(upload)
            except UploadsStopped:
                return
            # This thread's outermost frame: a source may be the user's own code.
            except Exception as error:  # noqa: BLE001
                self._refusals.refuse(upload.draft.key, f"preparing it raised {error!r}; it is not recorded")
                ok = False
            self._waiting.release()
            self._held_bytes.add(-upload.held_bytes)
            self._progress = UploadProgress()
            upload.draft.failed = not ok
            self._settled(upload.draft, ok)

    def _upload(self, upload: Upload) -> bool:
        while not self._may_begin.wait(0.2):
            self._check_not_stopped()
        if not self._wanted():
            self._on_left_out(upload.draft.key)
            return False
        try:
            contents = [self._store(upload.draft.key, source) for source in upload.sources()]
        except (SourceUnusable, UploadRefused) as error:
            self._refusals.refuse(upload.draft.key, str(error))
            return False
        upload.draft.contents = tuple(contents)
        return True

    def _store(self, key: str, source: Source) -> ContentReference:
        while not source.ready():
            if self._stopped.wait(_POLL_S):
                raise UploadsStopped
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
        """Send the content, and try until the daemon has it."""
        log = _ProgressLog(key, source.path, size_bytes)

        def chunks(offset: int) -> Iterator[bytes]:
            for chunk in source.chunks(offset):
                yield chunk
                offset += len(chunk)
                self._progress = UploadProgress(0, key, offset, size_bytes)
                log.sent(offset)
            source.check()

        mismatches = 0
        while True:
            self._check_not_stopped()
            try:
                self._connected().send(sha256, size_bytes, chunks)
            except (UploadBrokenOff, EndpointError) as error:
                self._wait_to_retry(key, error)
            except UploadMismatch as error:
                mismatches += 1
                source.check()
                if mismatches == _MISMATCHES_MAX:
                    raise UploadRefused(f"{source.path or key}: {error}; it is not recorded") from error
            else:
                self._failures = 0
                return

    def _check_not_stopped(self) -> None:
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

    def _wait_to_retry(self, key: str, error: Exception) -> None:
        """Close the connection, and wait until the next attempt."""
        self._check_not_stopped()
        with self._lock:
            channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()
        self._failures += 1
        if isinstance(error, UploadBrokenOff) and error.daemon_full:
            self._refusals.warn_once(key, f"{error}; trying again")
        if self._stopped.wait(self._backoff.wait_s(self._failures)):
            raise UploadsStopped


class _ProgressLog:
    """Logs the progress of a large content, every UPLOAD_PROGRESS_EVERY_S seconds and at its end."""

    def __init__(self, key: str, path: str, size_bytes: int) -> None:
        self._name = f"{key!r} ({path})" if path else repr(key)
        self._size_bytes = size_bytes
        self._logged_at = time.monotonic()
        self._logged_bytes: int | None = None

    def sent(self, sent_bytes: int) -> None:
        """Note that ``sent_bytes`` are sent by now; log it if it is time for that."""
        now = time.monotonic()
        waited_s = now - self._logged_at
        if self._size_bytes < limits.UPLOAD_PROGRESS_FROM_BYTES or (
            waited_s < limits.UPLOAD_PROGRESS_EVERY_S and sent_bytes < self._size_bytes
        ):
            return
        rate = (sent_bytes - (self._logged_bytes or 0)) / max(waited_s, 1e-3) / 1e6
        percent, total = 100 * sent_bytes // self._size_bytes, self._size_bytes / 1e6
        logger.info("uploading %s: %d %% of %.0f MB, %.0f MB/s", self._name, percent, total, rate)
        self._logged_at, self._logged_bytes = now, sent_bytes

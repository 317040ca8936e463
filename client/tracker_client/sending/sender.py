"""The client's one background loop: it connects, sends, receives acknowledgements, and never gives up.

Everything that happens arrives in one inbox: replies of the connection, and the commands of the tracker.
The loop waits there and nowhere else, until the next deadline of a collaborator. After each wait it does
whatever is due, in this order: connect or give up on a silent daemon, flush, send as much as the window
allows, finish.

``state`` describes the states of the link and of the stream.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from queue import Empty, SimpleQueue

from tracker_client.backends.handles import Handles, HandlesAnswer, HandlesRequest
from tracker_client.backends.script_backends import ScriptBackends
from tracker_client.backends.script_entries import DeliveredEntry, TakenEntry
from tracker_client.sending.batch_builder import BatchBuilder
from tracker_client.sending.events import ContentsSettled, Finish, LogConfig, Wake
from tracker_client.sending.finishing import Finishing
from tracker_client.sending.flusher import Flusher
from tracker_client.sending.link import Link
from tracker_client.sending.published import Published
from tracker_client.sending.rank_warnings import RankWarnings
from tracker_client.sending.state import StreamState
from tracker_client.sending.window import SendWindow
from tracker_client.settings.reading import ClientSettings
from tracker_client.settings.selectors import given_handles
from tracker_client.staging.buffer import StagingBuffer
from tracker_client.transport.messages import (
    Acknowledgement,
    Challenge,
    Delivered,
    Introduction,
    Notice,
    Reply,
    RunDirectory,
    Welcome,
)
from tracker_client.transport.stream import Connection
from tracker_client.transport.uploads import Uploads
from tracker_client.values.refusals import Refusals

logger = logging.getLogger("tracker_client")

Event = Wake | LogConfig | ContentsSettled | Finish | TakenEntry | HandlesRequest | tuple[Connection, Reply]


class Sender:
    """The loop and its collaborators.

    Other threads may put events into ``inbox``, read ``published``, and use ``handles``. Of ``batches`` they
    may read counts and announce items.
    """

    def __init__(
        self,
        settings: ClientSettings,
        introduction: Introduction,
        staging: StagingBuffer,
        refusals: Refusals,
        scripts: ScriptBackends,
    ) -> None:
        self.inbox: SimpleQueue[Event] = SimpleQueue()
        self.published = Published()
        is_primary = introduction.is_primary
        self.warnings = RankWarnings(
            lambda: self.inbox.put(Wake(flush=False)),
            is_alone=settings.rank.world_size == 1,
            is_primary=is_primary,
        )
        given = given_handles(settings.backend_options, introduction.run_id)
        self.handles = Handles(self.inbox.put, settings.handle_timeout_s, refusals, given)
        self.batches = BatchBuilder(staging, refusals, settings.buffer_bytes)
        self.on_welcome: Callable[[Welcome], None] = lambda _: None
        """Called with each Welcome, on the sender's thread."""
        self._settings = settings
        self._refusals = refusals
        self._is_primary = is_primary
        self._scripts = scripts
        self._link = Link(
            settings,
            introduction,
            self.batches,
            self._deliver,
            self.published,
            self.warnings.printer.show_soon,
        )
        self._window = SendWindow(self._link, self.batches.unacknowledged, settings.buffer_bytes)
        self._flusher = Flusher(self.batches, self._link, self._window)
        self._finishing = Finishing(
            self.batches, self._link, self._window, self._flusher, scripts, self.published,
            has_files=self._is_primary,
        )  # fmt: skip

    def start(self) -> None:
        """Run the loop in a thread that does not keep the process alive."""
        threading.Thread(target=self._main, name="tracker-sender", daemon=True).start()

    def uploads(self) -> Uploads:
        """Return the uploads of this stream's items, which have a thread of their own."""
        published = self.published
        return Uploads(
            self._settings.source,
            published.welcomed,
            lambda: published.run is not None and published.run.records_items,
            self.batches.warn_left_out,
            lambda draft, ok: self.inbox.put(ContentsSettled(draft, ok)),
            self._refusals,
        )

    def wake(self) -> None:
        """Ask for a flush before the flush interval is over."""
        self.inbox.put(Wake())

    def _deliver(self, connection: Connection, reply: Reply) -> None:
        self.inbox.put((connection, reply))

    # ---- the loop --------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._link.begin(time.monotonic())
            while self._finishing.stream.state is not StreamState.ENDED:
                self._take_events(max(0.0, self._next_deadline() - time.monotonic()))
                self._advance(time.monotonic())
        except Exception as error:  # the thread's outermost frame: training must continue
            self.published.problem = f"the sender stopped: {error!r}"
            logger.exception("the tracker's sender stopped; nothing more is recorded by this process")
        finally:
            self._scripts.close()
            self._link.end()
            self.warnings.end()
            self.published.ended.set()

    def _next_deadline(self) -> float:
        deadline = min(self._link.deadline, self._finishing.due_at, self.warnings.deadline)
        return min(deadline, self._flusher.due_at) if self._may_flush else deadline

    @property
    def _may_flush(self) -> bool:
        """True from the first Welcome, which sets the first step, to the last batch."""
        return self.batches.begun and self._finishing.stream.is_encoding

    def _take_events(self, timeout_s: float) -> None:
        try:
            self._take(self.inbox.get(timeout=timeout_s) if timeout_s > 0 else self.inbox.get_nowait())
            while True:
                self._take(self.inbox.get_nowait())
        except Empty:
            return

    def _advance(self, now: float) -> None:
        if self._finishing.stream.state is StreamState.ENDED:
            return
        self.warnings.advance(now, self._link.streaming)
        if not self._link.advance(now) and self._finishing.stream.is_finishing:
            self._finishing.end()
        if self._may_flush and now >= self._flusher.due_at:
            self._flusher.flush(now)
        self._window.send()
        self._finishing.advance(now)

    # ---- events of the tracker's threads ---------------------------------------------------------

    def _take(self, event: Event) -> None:
        if isinstance(event, Wake):
            self._flusher.hasten(flush=event.flush)
        elif isinstance(event, LogConfig):
            self.batches.add_config(event.document)
        elif isinstance(event, TakenEntry):
            if (connection := self._link.streaming) is not None:  # else the daemon sends the entry again
                connection.taken(event)
        elif isinstance(event, HandlesRequest):
            if (connection := self._link.streaming) is not None:  # else each new connection asks
                connection.ask_handles(event.backend)
        elif isinstance(event, ContentsSettled):
            self._settle_item(event)
        elif isinstance(event, Finish):
            self._finishing.begin(event)
            self._flusher.hasten()
            self._link.hasten(time.monotonic())
        elif event[0] is self._link.connection:  # a reply of an earlier connection means nothing any more
            self._take_reply(event[0], event[1], time.monotonic())

    def _settle_item(self, event: ContentsSettled) -> None:
        if not event.ok:
            self.batches.items.give_up(event.draft)
        elif self._finishing.stream.is_encoding:  # nothing follows a stream's last batch
            self.batches.complete_item(event.draft)
            self._flusher.hasten()

    # ---- replies of the daemon -------------------------------------------------------------------

    def _take_reply(self, connection: Connection, reply: Reply, now: float) -> None:
        if isinstance(reply, Acknowledgement):
            self._link.acknowledged()
            self.batches.unacknowledged.acknowledge(reply.sequence)
            self._flusher.set_interval(reply.flush_interval_s, now)
        elif isinstance(reply, Welcome):
            self._take_welcome(reply, now)
        elif isinstance(reply, (Notice, HandlesAnswer, RunDirectory)):
            self._take_news(reply)
        elif isinstance(reply, DeliveredEntry):
            self._scripts.offer(reply)
        elif isinstance(reply, Challenge):
            connection.answer(reply)
        elif isinstance(reply, Delivered):
            self._finishing.answered(reply)
        elif self._finishing.stream.state is StreamState.PARTING:
            self._finishing.end()
        else:
            self._link.closed(reply, now)
            if reply.is_refusal:
                self.published.answered.set()

    def _take_news(self, reply: Notice | HandlesAnswer | RunDirectory) -> None:
        if isinstance(reply, Notice):
            self.warnings.returned(reply.text)
        elif isinstance(reply, HandlesAnswer):
            self.handles.receive(reply)
        else:
            self.published.directory = reply.path
            self.published.located.set()

    def _take_welcome(self, welcome: Welcome, now: float) -> None:
        self.published.run = welcome
        self._link.welcomed()
        self.batches.unacknowledged.resume(welcome.next_sequence)
        self.batches.begin(welcome.next_step, records_items=welcome.records_items)
        self._flusher.set_interval(welcome.flush_interval_s, now)
        self._scripts.welcomed(welcome.script_backends)
        self._ask_handles(welcome)
        self.on_welcome(welcome)
        self.published.welcomed.set()
        self.published.answered.set()

    def _ask_handles(self, welcome: Welcome) -> None:
        for backend in self.handles.asked:
            self.inbox.put(HandlesRequest(backend))
        if self._is_primary:
            for backend in welcome.backends:
                self.handles.ask_for(backend)

"""The client's one background loop: it connects, sends, takes acknowledgements, and never gives up.

Everything that happens comes through one inbox: replies of the connection, and the commands of the
tracker. The loop waits there and nowhere else, until the next thing is due. After each event it
does, in this order, whatever is due: connect, give up on a silent daemon, drain the buffer, send as
much as the window allows, end.

A stream's life: *Hello → Welcome* (trim what the daemon has, declare what is lost) → batches,
acknowledgements, a heartbeat where there was nothing to send → the connection breaks → again.
"""

from __future__ import annotations

import logging
import threading
import time
from queue import Empty, SimpleQueue

from tracker_client.backends.handles import Handles, HandlesAnswer, HandlesRequest
from tracker_client.backends.script_backends import DeliveredEntry, ScriptBackends, TakenEntry
from tracker_client.endpoints.address_choice import AddressHistory
from tracker_client.errors import EmbeddedDaemonFailed, EndpointError, EndpointPending
from tracker_client.sending.batch_builder import BatchBuilder
from tracker_client.sending.events import ContentsSettled, Finish, LogConfig, Wake
from tracker_client.sending.reconnecting import Reconnecting
from tracker_client.sending.unacknowledged import HeldBatch
from tracker_client.settings.reading import ClientSettings
from tracker_client.staging.buffer import StagingBuffer
from tracker_client.staging.items import ItemDraft
from tracker_client.transport.stream import (
    Acknowledged,
    Challenged,
    Closed,
    Connection,
    Delivered,
    Introduction,
    Noticed,
    Reply,
    Welcomed,
)
from tracker_client.transport.uploads import Uploads
from tracker_client.values.refusals import Refusals
from tracker_protocol import limits

WINDOW_BYTES_MAX = 4 * 1024 * 1024
"""Most that is sent and not acknowledged."""
WINDOW_BATCHES_MAX = 1_024
BLOCKED_RETRY_S = 0.005
GOODBYE_TIMEOUT_S = 1.0
"""How long a finished stream waits for the daemon to end it too."""

logger = logging.getLogger("tracker_client")


Event = Wake | LogConfig | ContentsSettled | Finish | TakenEntry | HandlesRequest | tuple[Connection, Reply]


class Sender:
    """The loop and its state. Other threads use the inbox, the events and the plain attributes only."""

    def __init__(
        self,
        settings: ClientSettings,
        introduction: Introduction,
        staging: StagingBuffer,
        refusals: Refusals,
        scripts: ScriptBackends,
    ) -> None:
        self.inbox: SimpleQueue[Event] = SimpleQueue()
        self.intake = BatchBuilder(staging, refusals, settings.buffer_bytes)
        self.run: Welcomed | None = None
        self.welcomed = threading.Event()
        self.answered = threading.Event()  # welcomed or refused
        self.tried = threading.Event()  # the first connection has its threads, or did not come about
        self.ended = threading.Event()
        self.finished = False  # ended, and everything that was asked for is done
        self.connected = False
        self.connections = 0
        self.problem = ""
        self.unrecorded: list[ItemDraft] = []  # once it has ended: items that did not make it
        self._settings = settings
        self._refusals = refusals
        self._introduction = introduction
        self._scripts = scripts
        self.handles = Handles(self.inbox.put, settings.handle_timeout_s, refusals)
        self._window_bytes = min(WINDOW_BYTES_MAX, settings.buffer_bytes // 4)
        self._flush_interval_s = limits.FLUSH_INTERVAL_MIN_S
        self._connection: Connection | None = None
        self._reach = AddressHistory()
        self._reconnecting = Reconnecting((settings.rank.world_size or 1) * limits.CONNECT_JITTER_PER_RANK_S)
        self._names_known = 0
        self._welcome_by = 0.0
        self._flush_at = 0.0
        self._finish: Finish | None = None
        self._finish_sequence = 0
        self._asked_delivery = False
        self._delivered = False
        self._scripts_by: float | None = None
        self._goodbye_by: float | None = None

    def start(self) -> None:
        """Run the loop in a thread that does not keep the process alive."""
        threading.Thread(target=self._main, name="tracker-sender", daemon=True).start()

    def uploads(self) -> Uploads:
        """A thread beside this one, for what its items have in files."""
        return Uploads(
            self._settings.source,
            self.welcomed,
            lambda: self.run is not None and self.run.records_items,
            lambda draft, ok: self.inbox.put(ContentsSettled(draft, ok)),
            self._refusals,
        )

    def wake(self) -> None:
        """Ask for a drain before the flush interval is over."""
        self.inbox.put(Wake())

    # ---- the loop --------------------------------------------------------------------------------

    def _main(self) -> None:
        try:
            self._reconnecting.begin(time.monotonic())
            while not self.ended.is_set():
                self._take_events(max(0.0, self._next_deadline() - time.monotonic()))
                if not self.ended.is_set():
                    self._advance(time.monotonic())
        except Exception as error:  # the thread's outermost frame: training must go on
            self.problem = f"the sender stopped: {error!r}"
            logger.exception("the tracker's sender stopped; nothing more is recorded by this process")
        finally:
            self._scripts.leave()
            self._drop_connection()
            self.ended.set()

    def _next_deadline(self) -> float:
        deadlines = [self._reconnecting.due_at if self._connection is None else self._welcome_by]
        if self._connection is not None and self.connected:
            deadlines.clear()
        if self.intake.begun and self._finish_sequence == 0:
            deadlines.append(self._flush_at)
        if self._finish is not None:
            deadlines.append(self._finish_by(self._finish))
        return min(deadlines, default=self._flush_at)

    def _take_events(self, timeout_s: float) -> None:
        try:
            self._take(self.inbox.get(timeout=timeout_s) if timeout_s > 0 else self.inbox.get_nowait())
            while True:
                self._take(self.inbox.get_nowait())
        except Empty:
            return

    def _take(self, event: Event) -> None:
        if isinstance(event, Wake):
            self._flush_at = 0.0
        elif isinstance(event, LogConfig):
            self.intake.config(event.document)
        elif isinstance(event, TakenEntry):
            if self._connection is not None and self.connected:  # else it is asked for again
                self._connection.taken(event)
        elif isinstance(event, HandlesRequest):
            if self._connection is not None and self.connected:  # else each new connection asks
                self._connection.ask_handles(event.backend)
        elif isinstance(event, ContentsSettled):
            self._settle_item(event)
        elif isinstance(event, Finish):
            self._finish = event
            self._flush_at = 0.0
            self._reconnecting.hasten(time.monotonic())
        elif event[0] is self._connection:  # a reply of an earlier connection has no meaning any more
            self._take_reply(event[1])

    def _settle_item(self, event: ContentsSettled) -> None:
        if not event.ok:
            self.intake.items.give_up(event.draft)
        elif self._finish_sequence == 0:  # nothing comes after a stream's last batch
            self.intake.complete_item(event.draft)
            self._flush_at = 0.0

    def _advance(self, now: float) -> None:
        if self._connection is None and now >= self._reconnecting.due_at:
            self._connect(now)
        elif self._connection is not None and not self.connected and now >= self._welcome_by:
            self._lose(f"no answer within {limits.CONNECT_TIMEOUT_S:.0f} s", now)
        if self.intake.begun and self._finish_sequence == 0 and now >= self._flush_at:
            self._flush(now)
        self._send()
        if self._finish is not None and not self.ended.is_set():
            self._advance_finish(self._finish, now)

    # ---- connecting ------------------------------------------------------------------------------

    def _connect(self, now: float) -> None:
        try:
            endpoint = self._settings.source.read()
            connection = Connection(self._reach.choose(endpoint.addresses), endpoint, self._deliver)
        except EndpointPending as pending:
            self.problem = str(pending)
            self._reconnecting.await_endpoint(self.problem, now)
            return
        except (EndpointError, ValueError) as error:
            self._lose(str(error), now, refused=isinstance(error, EmbeddedDaemonFailed))
            return
        except RuntimeError as error:
            # No thread could be started. In an interpreter that is shutting down none ever will be.
            self._lose(f"{error}; call finish() before the script ends", now)
            if self._finish is not None:
                self._end()
            return
        finally:
            self.tried.set()
        self._connection = connection
        self._welcome_by = now + limits.CONNECT_TIMEOUT_S
        self._asked_delivery = False
        held, names = self.intake.held, self.intake.encoder.dictionary.names
        self._names_known = self.intake.encoder.dictionary.announced
        connection.hello(
            self._introduction,
            acknowledged=held.acknowledged,
            oldest_held=held.oldest_held,
            names=names[: self._names_known],
        )

    def _deliver(self, connection: Connection, reply: Reply) -> None:
        self.inbox.put((connection, reply))

    def _lose(self, problem: str, now: float, *, refused: bool = False) -> None:
        """The connection is gone, or did not come about: when to try again, and what is told of it."""
        address = str(self._settings.source)
        if self._connection is not None:
            address = self._connection.address
            self._reach.failed(address)
        self._drop_connection()
        self.problem = f"{address}: {problem}"
        self._reconnecting.fail(self.problem, now, refused=refused)

    def _drop_connection(self) -> None:
        connection, self._connection = self._connection, None
        self.connected = False
        self.intake.held.rewind()
        if connection is not None:
            connection.close()

    # ---- replies ---------------------------------------------------------------------------------

    def _take_reply(self, reply: Reply) -> None:
        now = time.monotonic()
        if isinstance(reply, Acknowledged):
            self._reconnecting.acknowledged()
            self.intake.held.acknowledge(reply.sequence)
            self._set_interval(reply.flush_interval_s)
        elif isinstance(reply, Welcomed):
            self._take_welcome(reply)
        elif isinstance(reply, Noticed):
            logger.warning("%s", reply.text)
        elif isinstance(reply, DeliveredEntry):
            self._scripts.offer(reply)
        elif isinstance(reply, HandlesAnswer):
            self.handles.tell(reply)
        elif isinstance(reply, Challenged):
            self._answer(reply)
        elif isinstance(reply, Delivered):
            self._delivered = True
        elif self._goodbye_by is not None:
            self._end()
        else:
            self._take_closed(reply, now)

    def _take_welcome(self, welcome: Welcomed) -> None:
        self.run = welcome
        self.connected = True
        if self._connection is not None:
            self._reach.worked(self._connection.address)
        self.connections += 1
        self.problem = ""
        self._reconnecting.welcomed()
        self.intake.held.resume(welcome.next_sequence)
        self.intake.begin(welcome.next_step, records_items=welcome.records_items)
        self._set_interval(welcome.flush_interval_s)
        self._scripts.welcomed(welcome.script_backends)
        for backend in self.handles.asked:
            self.inbox.put(HandlesRequest(backend))
        if self._introduction.rank == (self._introduction.primary_rank or 0):
            for backend in welcome.backends:
                self.handles.ask_for(backend)
        self.welcomed.set()
        self.answered.set()

    def _answer(self, challenged: Challenged) -> None:
        if self._connection is not None:
            self._connection.answer(challenged)

    def _take_closed(self, closed: Closed, now: float) -> None:
        text = f"{closed.details} ({closed.code})"
        self._lose(f"refused: {text}" if closed.is_refusal else text, now, refused=closed.is_refusal)
        if closed.is_refusal:
            self.answered.set()

    def _set_interval(self, flush_interval_s: float) -> None:
        if flush_interval_s > 0:
            self._flush_interval_s = flush_interval_s
            self._flush_at = min(self._flush_at, time.monotonic() + flush_interval_s)

    # ---- sending ---------------------------------------------------------------------------------

    def _flush(self, now: float) -> None:
        intake = self.intake
        intake.drain(self._send)
        if intake.has_staged_rows and not intake.blocked:
            return  # more than one drain's worth: look at the inbox and go on at once
        closed = intake.close_batch()
        self._send()
        if not closed and self._connection is not None and self.connected:
            # Without news it still says that the rank lives, and whether all it logged is sent: the
            # sequence that does not exist yet will hold what is not.
            held = intake.held
            flushed = intake.is_flushed and held.all_sent
            self._connection.heartbeat(held.next_sequence - 1 if flushed else held.next_sequence)
        self._flush_at = now + (self._flush_interval_s / 4 if intake.blocked else self._flush_interval_s)

    def _send(self) -> None:
        connection, held = self._connection, self.intake.held
        if connection is None or not self.connected:
            return
        while held.in_flight_bytes < self._window_bytes and held.in_flight < WINDOW_BATCHES_MAX:
            item = held.next_to_send()
            if item is None:
                return
            if isinstance(item, HeldBatch):
                connection.batch(item.sequence, item.body.data_after(self._names_known))
            else:
                connection.gap(item.first, item.last, item.points)

    # ---- the end ---------------------------------------------------------------------------------

    def _advance_finish(self, finish: Finish, now: float) -> None:
        if self._finish_sequence == 0 and self.intake.begun:
            if self.intake.has_staged_rows or self.intake.blocked or self.intake.items.announced:
                self._flush_at = now + (BLOCKED_RETRY_S if self.intake.blocked else 0.0)
            elif not self.intake.items.unfinished or now >= finish.items_until:
                self._finish_sequence = self.intake.finish(finish.exit_code)
                self._send()
        if self._finish_sequence and self.intake.held.acknowledged >= self._finish_sequence:
            self._after_recorded(finish, now)
        if now >= self._finish_by(finish):
            self._run_out_of_time(finish, now)

    def _finish_by(self, finish: Finish) -> float:
        if self._goodbye_by is not None:
            return self._goodbye_by
        return finish.deadline if self._scripts_by is None else self._scripts_by

    def _run_out_of_time(self, finish: Finish, now: float) -> None:
        """The script's classes may still close with what they have; then it is over."""
        if self._scripts.open_names and self._scripts_by is None:
            self.problem = self.problem or f"not all is given to {', '.join(self._scripts.open_names)}"
            self._scripts_by = now + limits.SCRIPT_CLOSE_S
            self._scripts.leave(finish.exit_code)
        else:
            self._end()

    def _after_recorded(self, finish: Finish, now: float) -> None:
        if finish.delivered and not self._delivered:
            if self._connection is not None and self.connected and not self._asked_delivery:
                self._asked_delivery = True
                self._connection.await_delivery()
        elif not self._scripts.open_names:
            self._say_goodbye(now)

    def _say_goodbye(self, now: float) -> None:
        if self._goodbye_by is not None:
            return
        self.finished = self._scripts_by is None
        self._goodbye_by = now + GOODBYE_TIMEOUT_S
        if self._connection is None:
            self._end()
        else:
            self._connection.end_requests()

    def _end(self) -> None:
        self._drop_connection()
        self.unrecorded = self.intake.items.unfinished
        self.ended.set()

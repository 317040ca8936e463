"""The steps of ``finish()``: from its call to the end of the stream.

:class:`~tracker_client.sending.state.StreamState` has the states, their order and their deadlines. This
module does the work of each state.
"""

from __future__ import annotations

from tracker_client.backends.script_backends import ScriptBackends
from tracker_client.sending.batch_builder import BatchBuilder
from tracker_client.sending.events import Finish
from tracker_client.sending.flusher import Flusher
from tracker_client.sending.link import Link
from tracker_client.sending.published import Published
from tracker_client.sending.state import NEVER, StreamMachine, StreamState
from tracker_client.sending.window import SendWindow
from tracker_client.transport.messages import Delivered
from tracker_client.transport.stream import Connection
from tracker_protocol import limits

ANSWER_GRACE_S = 2.0
"""The time beyond FINISH_FILES_WAIT_S, after which the daemon answers in any case."""
BLOCKED_RETRY_S = 0.005
"""The time until the next flush while the last rows wait for their device."""


class Finishing:
    """Finishes the stream, step by step. Only the sender's thread may use it."""

    def __init__(
        self,
        batches: BatchBuilder,
        link: Link,
        window: SendWindow,
        flusher: Flusher,
        scripts: ScriptBackends,
        published: Published,
        *,
        has_files: bool,
    ) -> None:
        """Make it; ``has_files``: the daemon writes this rank's rows to its files."""
        self.stream = StreamMachine()
        self._batches = batches
        self._link = link
        self._window = window
        self._flusher = flusher
        self._scripts = scripts
        self._published = published
        self._has_files = has_files
        self._finish: Finish | None = None
        self._files_until = NEVER
        """The time at which the wait for the daemon's files ends, even without an answer."""
        self._last_sequence = 0
        self._asked_on: Connection | None = None
        """The connection on which the daemon was asked the question of the present state."""

    @property
    def due_at(self) -> float:
        """The time at which :meth:`advance` has something to do."""
        return min(self.stream.deadline, self._files_until)

    def begin(self, finish: Finish) -> None:
        """Begin to finish."""
        self._finish = finish
        self.stream.finish_asked(finish.deadline)

    def advance(self, now: float) -> None:
        """Take each step whose condition is met; end the stream, or extend its time, at a deadline."""
        finish = self._finish
        if finish is None or not self.stream.is_finishing:
            return
        if self.stream.state is StreamState.DRAINING and self._batches.begun:
            self._drain(finish, now)
        if self.stream.state is StreamState.RECORDING:
            self._await_acknowledgement()
        if self.stream.state is StreamState.FORWARDING:
            self._await_root()
        if self.stream.state is StreamState.DELIVERING:
            self._await_delivery(finish, now)
        if self.stream.state is StreamState.CLOSING_BACKENDS and not self._scripts.open_names:
            self._end_requests(now)
        if self.stream.is_overdue(now):
            self._run_out_of_time(finish, now)

    def answered(self, delivered: Delivered) -> None:
        """Note the daemon's answer to the question of the present state."""
        if delivered.recorded and self.stream.state is StreamState.FORWARDING:
            self._forwarded()
        elif not delivered.recorded and self.stream.state is StreamState.DELIVERING:
            self._delivered(delivered.missing)

    def end(self) -> None:
        """End the stream and the link."""
        self.stream.ended()
        self._link.end()
        self._published.unrecorded = self._batches.items.unfinished
        self._published.ended.set()

    # ---- the steps -------------------------------------------------------------------------------

    def _drain(self, finish: Finish, now: float) -> None:
        batches = self._batches
        if batches.has_staged_rows or batches.blocked or batches.items.announced:
            self._flusher.due_at = now + (BLOCKED_RETRY_S if batches.blocked else 0.0)
        elif not batches.items.unfinished or now >= finish.items_until:
            self._last_sequence = batches.finish(finish.exit_code, finish.exit_status)
            self.stream.last_batch_encoded()
            self._window.send()

    def _forwarded(self) -> None:
        self._asked_on = None
        self.stream.forwarded()

    def _delivered(self, missing: str = "") -> None:
        self._files_until = NEVER
        self._published.missing = missing
        self.stream.delivered()

    def _await_acknowledgement(self) -> None:
        if self._batches.unacknowledged.acknowledged >= self._last_sequence:
            self.stream.all_acknowledged()

    def _await_root(self) -> None:
        run, connection = self._published.run, self._link.streaming
        if run is None or run.forwarder is None:
            self._forwarded()
        elif connection is not None and connection is not self._asked_on:
            self._asked_on = connection
            connection.await_delivery(recorded=True)

    def _await_delivery(self, finish: Finish, now: float) -> None:
        connection, files = self._link.streaming, finish.wait == "files"
        if finish.wait == "recorded" or (files and not self._has_files):
            self._delivered()
            return
        if files and self._files_until == NEVER:
            self._files_until = now + limits.FINISH_FILES_WAIT_S + ANSWER_GRACE_S
        if now >= self._files_until:
            self._delivered("the daemon has not said if all rows are in its files")
        elif connection is not None and connection is not self._asked_on:
            self._asked_on = connection
            connection.await_delivery(files=files)

    def _end_requests(self, now: float) -> None:
        self.stream.backends_closed(now)
        self._published.finished = self.stream.finished
        if self._link.connection is None:
            self.end()
        else:
            self._link.connection.end_requests()

    def _awaited(self) -> str:
        """Return a sentence about the rest that is waited for, once the daemon has everything durably."""
        run = self._published.run
        if self.stream.state is StreamState.FORWARDING and run is not None and run.forwarder is not None:
            node = run.forwarder
            return (
                f"the root ({node.root}) does not have everything yet. The daemon on {node.host} keeps it in "
                f"{node.state_directory} and forwards it once it can; if that daemon has ended: "
                f"tracker-daemon sync {node.state_directory} --upstream {node.root}"
            )
        if self.stream.state is StreamState.DELIVERING:
            return "everything is recorded, but not all backends have it yet; see tracker-daemon status"
        return ""

    def _run_out_of_time(self, finish: Finish, now: float) -> None:
        still_open = self._scripts.open_names
        self._published.unfinished = self._published.unfinished or self._awaited()
        if self.stream.may_extend(backends_open=bool(still_open)):
            self._published.problem = (
                self._published.problem or f"not all is given to {', '.join(still_open)}"
            )
            self.stream.extend(now)
            self._scripts.close(finish.exit_code or 0)
        else:
            self.end()

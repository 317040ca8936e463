"""One connection to the daemon: a call of the Stream method.

A :class:`Connection` sends messages in their order. It delivers each reply to its owner as a frozen value,
together with the connection; the last reply is :class:`ConnectionClosed`. It never raises for errors of the
network. The channel's own thread pulls the requests one at a time, each when the one before has left. The
send window of the owner bounds the messages that wait here.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from queue import SimpleQueue

from tracker_client.backends.script_entries import TakenEntry
from tracker_client.endpoints.endpoint import Endpoint
from tracker_client.errors import EndpointError
from tracker_client.transport.calls import open_channel
from tracker_client.transport.channel import CallFailed
from tracker_client.transport.message_coding import batch_message, hello_message, reply_of, taken_message
from tracker_client.transport.messages import Challenge, ConnectionClosed, Introduction, Reply
from tracker_client.values.arguments import valid_text
from tracker_protocol import STREAM_METHOD, limits
from tracker_protocol.v1 import tracker_pb2 as pb


class Connection:
    """One call of the Stream method at one address.

    ``deliver`` is called on a thread of the connection.

    Raises:
        EndpointError: this process was forked, and the helper that its calls need does not work.
        RuntimeError: no thread could be started for it.
    """

    def __init__(
        self, address: str, endpoint: Endpoint, deliver: Callable[[Connection, Reply], None]
    ) -> None:
        self.address = address
        self._launch_file = endpoint.launch_file
        self._outgoing: SimpleQueue[bytes | None] = SimpleQueue()
        self._deliver = deliver
        self._channel = open_channel(address, endpoint)
        try:
            self._replies = self._channel.call(STREAM_METHOD, self._requests(), pb.DaemonMessage.FromString)
            threading.Thread(target=self._read, name="tracker-replies", daemon=True).start()
        except CallFailed as failure:
            self.close()
            raise EndpointError(str(failure)) from failure
        except BaseException:  # whatever it was: clean up, and raise it again
            self.close()
            raise

    def end_requests(self) -> None:
        """Send nothing more; the daemon ends the stream once it has acknowledged everything."""
        self._outgoing.put(None)

    def close(self) -> None:
        """End the connection; its owner ignores later replies."""
        self._outgoing.put(None)
        self._channel.close()

    # ---- messages --------------------------------------------------------------------------------

    def hello(
        self, introduction: Introduction, *, acknowledged: int, oldest_held: int, names: list[str]
    ) -> None:
        """Send the first message."""
        message = hello_message(introduction, acknowledged=acknowledged, oldest_held=oldest_held, names=names)
        message.hello.launch_file = self._launch_file
        self._put(message)

    def batch(self, sequence: int, body: bytes) -> None:
        """Send one batch."""
        self._put(batch_message(sequence, body))

    def gap(self, first: int, last: int, points: int) -> None:
        """Declare that the batches ``first`` to ``last``, with ``points`` values, will never be sent."""
        self._put(pb.ClientMessage(gap=pb.Gap(from_sequence=first, to_sequence=last, points=points)))

    def heartbeat(self, flushed_through: int) -> None:
        """Declare that everything logged is in the batches up to ``flushed_through``."""
        self._put(pb.ClientMessage(heartbeat=pb.Heartbeat(flushed_through=flushed_through)))

    def await_delivery(self, *, files: bool = False, recorded: bool = False) -> None:
        """Ask for a Delivered: of all backends, of the ``files`` alone, or of the root's journal alone."""
        self._put(pb.ClientMessage(await_delivery=pb.AwaitDelivery(files=files, recorded=recorded)))

    def taken(self, taken: TakenEntry) -> None:
        """Send the answer of a class of the script."""
        self._put(taken_message(taken))

    def ask_handles(self, backend: str) -> None:
        """Ask for a backend's handles."""
        self._put(pb.ClientMessage(handles_request=pb.HandlesRequest(backend=backend)))

    def warn(self, text: str) -> None:
        """Send a sentence for the user."""
        short = valid_text(text)[: limits.WARNING_MAX_CHARACTERS]
        self._put(pb.ClientMessage(warning=pb.Warning(text=short)))

    def answer(self, challenge: Challenge) -> None:
        """Answer that this process lives."""
        self._put(pb.ClientMessage(challenge_answer=pb.ChallengeAnswer(nonce=challenge.nonce)))

    def _put(self, message: pb.ClientMessage) -> None:
        self._outgoing.put(message.SerializeToString())

    # ---- the channel's threads -------------------------------------------------------------------

    def _requests(self) -> Iterator[bytes]:
        while (message := self._outgoing.get()) is not None:
            yield message

    def _read(self) -> None:
        closed = ConnectionClosed("OK", "the daemon ended the stream")
        try:
            for message in self._replies:
                reply = reply_of(message)
                if reply is not None:
                    self._deliver(self, reply)
        except CallFailed as failure:
            closed = ConnectionClosed(failure.code, failure.details)
        finally:
            self._outgoing.put(None)  # lets the channel's own thread end
            self._deliver(self, closed)

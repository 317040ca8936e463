"""A rank's connection to a node's daemon: batches are recorded here, other messages are sent to the root."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tracker_daemon.ingest.session import Session, SessionContext
from tracker_daemon.runs.run import Admission
from tracker_protocol.v1 import tracker_pb2 as pb

_FOR_ROOT = frozenset({"backend_taken", "handles_request", "challenge_answer", "warning"})


class ForwardedSession(Session):
    """One rank's connection.

    ``send_to_root`` sends a message of the rank's stream to the root. ``root_welcome`` is the root's Welcome
    for a rank that is new here; None for one that has returned. ``forwarder`` describes this daemon.
    """

    def __init__(
        self,
        admission: Admission,
        serving: SessionContext,
        send_to_root: Callable[[bytes, pb.ClientMessage], None],
        root_welcome: pb.Welcome | None,
        forwarder: pb.Forwarder,
    ) -> None:
        super().__init__(admission, serving)
        self._send_to_root = send_to_root
        self._root_welcome = root_welcome
        self._forwarder = forwarder

    async def welcome(
        self, hello: pb.Hello, *, new_backends: Mapping[str, bytes], script_backends: list[str], version: str
    ) -> pb.DaemonMessage:
        """Journal the admission and return the Welcome, with the run's backends and name at the root."""
        message = await super().welcome(
            hello, new_backends=new_backends, script_backends=script_backends, version=version
        )
        welcome, forwarding = message.welcome, self.stream.run.options.forwarding
        welcome.forwarder.CopyFrom(self._forwarder)
        del welcome.backends[:]
        welcome.backends.extend(forwarding.backends if forwarding is not None else ())
        if self._root_welcome is not None:
            welcome.next_step = self._root_welcome.next_step
            welcome.run_name = self._root_welcome.run_name
        return message

    def take(self, message: pb.ClientMessage) -> None:
        """Handle one message after the Hello; raises the errors of :meth:`Session.take`."""
        if message.WhichOneof("message") in _FOR_ROOT:
            self.stream.note_contact()
            self._send_to_root(self.stream.stream_id, message)
        else:
            super().take(message)

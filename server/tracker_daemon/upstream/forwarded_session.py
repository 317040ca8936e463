"""A rank's connection to a daemon that forwards: its batches stay here, the rest goes to the root."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from tracker_daemon.ingest.session import Session, SessionContext
from tracker_daemon.runs.run import Admission
from tracker_protocol.v1 import tracker_pb2 as pb

_RELAYED = frozenset({"backend_taken", "handles_request", "challenge_answer"})


class ForwardedSession(Session):
    """``relay`` passes on what is for the root. ``decided`` is the root's Welcome, for a rank that is new."""

    def __init__(
        self,
        admission: Admission,
        serving: SessionContext,
        relay: Callable[[bytes, pb.ClientMessage], None],
        decided: pb.Welcome | None,
    ) -> None:
        super().__init__(admission, serving)
        self._relay = relay
        self._decided = decided

    async def welcome(
        self, hello: pb.Hello, *, new_backends: Mapping[str, bytes], script_backends: list[str], version: str
    ) -> pb.DaemonMessage:
        """Journal the stream's coming and answer it, with the run as it is at the root."""
        message = await super().welcome(
            hello, new_backends=new_backends, script_backends=script_backends, version=version
        )
        welcome, forwarding = message.welcome, self.stream.run.options.forwarding
        del welcome.backends[:]
        welcome.backends.extend(forwarding.backends if forwarding is not None else ())
        if self._decided is not None:
            welcome.next_step = self._decided.next_step
            welcome.run_name = self._decided.run_name
        return message

    def take(self, message: pb.ClientMessage) -> None:
        """Take one message after the Hello; raises as :meth:`Session.take`."""
        if message.WhichOneof("message") in _RELAYED:
            self.stream.heard()
            self._relay(self.stream.stream_id, message)
        else:
            super().take(message)

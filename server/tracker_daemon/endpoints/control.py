"""Calls of the command line to a running daemon: status and stop.

The only place where the command line uses gRPC. Its errors are translated here, by status code.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

import grpc

from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.errors import DaemonNotRunning, EndpointError
from tracker_protocol import STATUS_METHOD, STOP_METHOD, TOKEN_METADATA_KEY, limits
from tracker_protocol.v1 import tracker_pb2 as pb

CALL_TIMEOUT_S = 10.0
CHANNEL_OPTIONS = (
    # gRPC would use a proxy of the environment even for localhost.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", limits.STATUS_MAX_BYTES),
)
ADVICE = {
    grpc.StatusCode.UNAUTHENTICATED: "refuses the token; read its own endpoint file, or set TRACKER_TOKEN",
    grpc.StatusCode.PERMISSION_DENIED: "refuses the token; read its own endpoint file, or set TRACKER_TOKEN",
    grpc.StatusCode.UNIMPLEMENTED: "does not know this call; it may be another version, or another program",
    grpc.StatusCode.DEADLINE_EXCEEDED: "did not answer in time; it may be hung, or the network slow",
}

Reply = TypeVar("Reply", pb.StatusReply, pb.StopReply)


@dataclass(frozen=True, slots=True)
class DaemonClient:
    """Calls to the daemon at ``info``; each call opens a channel and closes it."""

    info: EndpointInfo

    def status(self, timeout_s: float = CALL_TIMEOUT_S) -> str:
        """Return the status document, as JSON text.

        Raises:
            DaemonNotRunning: nothing answers at any of the daemon's addresses.
            EndpointError: something answers, and refuses or fails.
        """
        reply = self._call(STATUS_METHOD, pb.StatusRequest(), pb.StatusReply.FromString, timeout_s)
        return reply.json

    def stop(self, drain_timeout_s: float | None = None, exit_status: int | None = None) -> int:
        """Ask the daemon to deliver for ``drain_timeout_s`` (None: its setting) and end; return its pid.

        ``exit_status`` means that the job is over: it counts for all ranks that did not finish.

        Raises:
            As :meth:`status`.
        """
        request = pb.StopRequest(timeout_s=drain_timeout_s, exit_status=exit_status)
        return self._call(STOP_METHOD, request, pb.StopReply.FromString, CALL_TIMEOUT_S).pid

    def _call(self, method: str, request: Any, parse: Callable[[bytes], Reply], timeout_s: float) -> Reply:
        *others, last = self.info.endpoints or (self.info.endpoint,)
        for address in others:
            # The next address may be reachable from here.
            with contextlib.suppress(DaemonNotRunning):
                return self._call_at(address, method, request, parse, timeout_s)
        return self._call_at(last, method, request, parse, timeout_s)

    def _call_at(
        self, address: str, method: str, request: Any, parse: Callable[[bytes], Reply], timeout_s: float
    ) -> Reply:
        with _translated(address), self._channel(address) as channel:
            call = channel.unary_unary(
                method, request_serializer=type(request).SerializeToString, response_deserializer=parse
            )
            metadata = ((TOKEN_METADATA_KEY, f"Bearer {self.info.token}"),)
            reply: Reply = call(request, timeout=timeout_s, metadata=metadata)
            return reply

    def _channel(self, address: str) -> grpc.Channel:
        if self.info.tls_root_pem is None or address.startswith("unix:"):
            return grpc.insecure_channel(address, options=CHANNEL_OPTIONS)
        credentials = grpc.ssl_channel_credentials(self.info.tls_root_pem.encode())
        return grpc.secure_channel(address, credentials, options=CHANNEL_OPTIONS)


@contextlib.contextmanager
def _translated(address: str) -> Iterator[None]:
    try:
        yield
    except grpc.RpcError as error:
        code = error.code()
        # Cancelled: the daemon ended during the call.
        if code in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED):
            msg = f"no daemon answers at {address} ({error.details()})"
            raise DaemonNotRunning(msg) from None
        advice = ADVICE.get(code, f"failed: {code.name}: {error.details()}")
        msg = f"the daemon at {address} {advice}"
        raise EndpointError(msg) from None

"""The gRPC server: checks the token, serves the stream of each rank, and answers the command line."""

from __future__ import annotations

import asyncio
import hmac
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Any, Protocol

import grpc
import grpc.aio
import structlog

from tracker_daemon.errors import (
    ClientRefused,
    JournalError,
    PrimaryAwaited,
    ProtocolError,
    SettingsError,
    TrackerDaemonError,
    UpstreamUnavailable,
)
from tracker_daemon.ingest.session import BrokenStream, Session
from tracker_daemon.ingest.uploads import UploadService
from tracker_daemon.version import VERSION
from tracker_protocol import LAST_RELEASE_BY_PROTOCOL, PROTOCOL_VERSION, SERVICE, TOKEN_METADATA_KEY, limits
from tracker_protocol.v1 import tracker_pb2 as pb

log = structlog.get_logger(__name__)
_HELLO_TIMEOUT_S = 30.0
if TYPE_CHECKING:  # generic in their stubs only
    Context = grpc.aio.ServicerContext[Any, Any]
    Handler = grpc.RpcMethodHandler[Any, Any]

SERVER_OPTIONS = (
    # Two daemons on one port must not both succeed.
    ("grpc.so_reuseport", 0),
    ("grpc.max_receive_message_length", limits.RECEIVE_MAX_BYTES),
    ("grpc.keepalive_time_ms", int(limits.KEEPALIVE_TIME_S * 1000)),
    ("grpc.keepalive_timeout_ms", int(limits.KEEPALIVE_TIMEOUT_S * 1000)),
    # Without this the server answers the clients' keepalive with GOAWAY too_many_pings.
    ("grpc.http2.min_recv_ping_interval_without_data_ms", int(limits.KEEPALIVE_TIME_S * 500)),
    ("grpc.keepalive_permit_without_calls", 1),
)

# The gRPC status of each of the daemon's errors; a subclass precedes its base class.
_STATUS_OF = (
    (BrokenStream, grpc.StatusCode.DATA_LOSS),
    (ClientRefused, grpc.StatusCode.ALREADY_EXISTS),
    (SettingsError, grpc.StatusCode.INVALID_ARGUMENT),
    (ProtocolError, grpc.StatusCode.INVALID_ARGUMENT),
    (JournalError, grpc.StatusCode.UNAVAILABLE),
    (UpstreamUnavailable, grpc.StatusCode.UNAVAILABLE),
    (PrimaryAwaited, grpc.StatusCode.UNAVAILABLE),
)


class DaemonCalls(Protocol):
    """The daemon as the server uses it."""

    async def admit(self, hello: pb.Hello) -> tuple[Session, pb.DaemonMessage]:
        """Admit a client; return its session and the Welcome, or raise the error for the client."""

    async def admit_rank(self, request: pb.AdmitRequest) -> pb.AdmitReply:
        """Decide about a rank of a node's daemon, or raise the error for that daemon."""

    async def wait_for_room(self) -> None:
        """Wait while too much is uncommitted."""

    def remove(self, session: Session) -> None:
        """Remove an ended connection."""

    async def status(self) -> str:
        """Return the status document as JSON."""

    def stop(self, timeout_s: float | None, exit_status: int | None) -> int:
        """Ask the daemon to drain and end; return its pid. ``exit_status`` is that of an ended job."""


class TokenCheck(grpc.aio.ServerInterceptor):
    """Refuses every call that does not carry the daemon's token."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()
        self._refusals = {streaming: _refusal(streaming=streaming) for streaming in (False, True)}

    async def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], Awaitable[Handler | None]],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> Handler | None:
        """Let the call through if its token is right; else answer UNAUTHENTICATED."""
        given = dict(handler_call_details.invocation_metadata or ()).get(TOKEN_METADATA_KEY, "")
        given_bytes = given if isinstance(given, bytes) else given.encode()
        if hmac.compare_digest(given_bytes, self._expected):
            return await continuation(handler_call_details)
        handler = await continuation(handler_call_details)
        return None if handler is None else self._refusals[bool(handler.request_streaming)]


def _refusal(*, streaming: bool) -> Handler:
    async def refuse(_: object, context: Context) -> None:
        await context.abort(
            grpc.StatusCode.UNAUTHENTICATED,
            "the token is missing or wrong; it is in the daemon's endpoint file, or set TRACKER_TOKEN",
        )

    if streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)


class TrackerService:
    """The methods of the protocol, answered by ``calls`` and ``uploads``.

    ``serves_launch`` returns True for the name of a launch's endpoint file if the daemon serves that launch;
    None: it serves any.
    """

    def __init__(
        self, calls: DaemonCalls, uploads: UploadService, serves_launch: Callable[[str], bool] | None = None
    ) -> None:
        self._calls = calls
        self._uploads = uploads
        self._serves_launch = serves_launch

    def handlers(self) -> grpc.GenericRpcHandler:
        """Return the handlers for ``add_generic_rpc_handlers``."""
        return grpc.method_handlers_generic_handler(
            SERVICE,
            {
                "Stream": grpc.stream_stream_rpc_method_handler(
                    self.stream, pb.ClientMessage.FromString, pb.DaemonMessage.SerializeToString
                ),
                "Upload": grpc.stream_stream_rpc_method_handler(
                    self._uploads.upload, pb.UploadRequest.FromString, pb.UploadReply.SerializeToString
                ),
                "Admit": grpc.unary_unary_rpc_method_handler(
                    self.admit, pb.AdmitRequest.FromString, pb.AdmitReply.SerializeToString
                ),
                "Status": grpc.unary_unary_rpc_method_handler(
                    self.status, pb.StatusRequest.FromString, pb.StatusReply.SerializeToString
                ),
                "Stop": grpc.unary_unary_rpc_method_handler(
                    self.stop, pb.StopRequest.FromString, pb.StopReply.SerializeToString
                ),
            },
        )

    async def stream(self, requests: AsyncIterator[pb.ClientMessage], context: Context) -> None:
        """Serve one rank's connection."""
        try:
            session, welcome = await self._first(requests)
        except TrackerDaemonError as error:
            await _abort(context, error)
            return
        try:
            await context.write(welcome)
            await self._serve(session, requests, context)
        except TrackerDaemonError as error:
            log.warning("a stream was ended", rank=session.stream.rank, reason=str(error))
            await _abort(context, error)
        finally:
            self._calls.remove(session)

    async def _first(self, requests: AsyncIterator[pb.ClientMessage]) -> tuple[Session, pb.DaemonMessage]:
        try:
            first = await asyncio.wait_for(anext(requests, None), _HELLO_TIMEOUT_S)
        except asyncio.TimeoutError:
            raise BrokenStream(f"no Hello arrived within {_HELLO_TIMEOUT_S:.0f} s") from None
        if first is None or first.WhichOneof("message") != "hello":
            raise ProtocolError("a stream begins with a Hello")
        _check_version(first.hello)
        self._check_launch(first.hello)
        return await self._calls.admit(first.hello)

    def _check_launch(self, hello: pb.Hello) -> None:
        """Refuse a client whose endpoint file is of a launch that has not made this daemon its own."""
        served = self._serves_launch
        if hello.launch_file and served is not None and not served(hello.launch_file):
            raise ClientRefused(
                f"this daemon serves other launches, and the endpoint file {hello.launch_file} names it by "
                "mistake (in a copied output directory?); remove that file, or choose another outdir"
            )

    async def _serve(
        self, session: Session, requests: AsyncIterator[pb.ClientMessage], context: Context
    ) -> None:
        reader = asyncio.create_task(self._read(session, requests))
        try:
            async for reply in session.replies():
                await context.write(reply)
            if reader.done():
                reader.result()  # raises the error that ended it
        finally:
            reader.cancel()
            # If the replies ended by an error, the reader's error is dropped.
            reader.add_done_callback(lambda task: task.cancelled() or task.exception())

    async def _read(self, session: Session, requests: AsyncIterator[pb.ClientMessage]) -> None:
        try:
            async for message in requests:
                await self._calls.wait_for_room()
                session.take(message)
        finally:
            session.close()

    async def admit(self, request: pb.AdmitRequest, context: Context) -> pb.AdmitReply:
        """Decide about a rank of a node's daemon."""
        try:
            _check_version(request.hello)
            return await self._calls.admit_rank(request)
        except TrackerDaemonError as error:
            await _abort(context, error)
            raise

    async def status(self, _: pb.StatusRequest, context: Context) -> pb.StatusReply:
        """Return the status document."""
        try:
            return pb.StatusReply(json=await self._calls.status())
        except TrackerDaemonError as error:
            await _abort(context, error)
            raise

    async def stop(self, request: pb.StopRequest, _: Context) -> pb.StopReply:
        """Ask the daemon to drain and end."""
        timeout_s = request.timeout_s if request.HasField("timeout_s") else None
        exit_status = request.exit_status if request.HasField("exit_status") else None
        return pb.StopReply(pid=self._calls.stop(timeout_s, exit_status))


def _check_version(hello: pb.Hello) -> None:
    spoken = hello.protocol_version
    if spoken == PROTOCOL_VERSION:
        return
    last = LAST_RELEASE_BY_PROTOCOL.get(spoken)
    way_out = f"a daemon of tracker-daemon {last} can serve this client, or " if last else ""
    raise ProtocolError(
        f"the client speaks protocol {spoken} and this daemon (tracker-daemon {VERSION}) protocol "
        f"{PROTOCOL_VERSION}; {way_out}install the same version of tracker-daemon for both"
    )


async def _abort(context: Context, error: TrackerDaemonError) -> None:
    kinds = (status for kind, status in _STATUS_OF if isinstance(error, kind))
    await context.abort(next(kinds, grpc.StatusCode.INTERNAL), str(error))

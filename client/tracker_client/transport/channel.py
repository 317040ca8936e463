"""gRPC channels to a daemon, and the status codes that their calls end with."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any, TypeVar

from tracker_client.endpoints.endpoint import Endpoint
from tracker_client.transport.grpc_loading import grpc
from tracker_protocol import TOKEN_METADATA_KEY, limits

CHANNEL_OPTIONS = (
    # A proxy of the environment would be used even for connections to this host.
    ("grpc.enable_http_proxy", 0),
    ("grpc.max_receive_message_length", limits.RECEIVE_MAX_BYTES),
    ("grpc.keepalive_time_ms", int(limits.KEEPALIVE_TIME_S * 1000)),
    ("grpc.keepalive_timeout_ms", int(limits.KEEPALIVE_TIMEOUT_S * 1000)),
    ("grpc.http2.max_pings_without_data", 0),
    # Two trackers of one process must not share a connection that one of them may break.
    ("grpc.use_local_subchannel_pool", 1),
)

Metadata = tuple[tuple[str, str], ...]
Reply = TypeVar("Reply")


class CallFailed(Exception):
    """A call has failed. ``code`` is gRPC's name of the status."""

    def __init__(self, code: str, details: str) -> None:
        super().__init__(f"{details} ({code})")
        self.code = code
        self.details = details


class GrpcChannel:
    """A :class:`tracker_client.transport.calls.Channel` over gRPC in this process."""

    def __init__(self, address: str, endpoint: Endpoint) -> None:
        self._channel = open_grpc_channel(address, endpoint.tls_root_pem)
        self._metadata = token_metadata(endpoint)

    def call(
        self, method: str, requests: Iterator[bytes], decode: Callable[[bytes], Reply]
    ) -> Generator[Reply, None, None]:
        """Begin a call; return its replies."""
        begin: Any = self._channel.stream_stream(method, None, decode)
        try:
            return _replies(begin(requests, metadata=self._metadata))
        except ValueError as error:  # gRPC raises it on a closed channel
            raise CallFailed("CANCELLED", str(error)) from error

    def close(self) -> None:
        """End the connection and its calls."""
        self._channel.close()


def _replies(call: Any) -> Generator[Any, None, None]:
    try:
        yield from call
    except grpc.RpcError as error:
        raise CallFailed(code_name(error), str(call.details() or "")) from error
    finally:
        call.cancel()


def open_grpc_channel(address: str, tls_root_pem: bytes | None) -> grpc.Channel:
    """Return a new channel of gRPC to the daemon at ``address``; Unix sockets never use TLS."""
    if tls_root_pem is None or address.startswith("unix:"):
        return grpc.insecure_channel(address, CHANNEL_OPTIONS)
    return grpc.secure_channel(address, grpc.ssl_channel_credentials(tls_root_pem), CHANNEL_OPTIONS)


def token_metadata(endpoint: Endpoint) -> Metadata | None:
    """Return the metadata that carries the endpoint's token with a call; None without a token."""
    return ((TOKEN_METADATA_KEY, f"Bearer {endpoint.token}"),) if endpoint.token else None


def code_name(error: grpc.RpcError) -> str:
    """Return gRPC's name of the status that a call ended with."""
    # The error that a call raises is also the call, with its status; the types do not show that.
    code = getattr(error, "code", None)
    return str(code().name) if code is not None else "UNKNOWN"

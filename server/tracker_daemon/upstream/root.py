"""The root: its endpoint, the calls to it, and the errors that its refusals become."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import grpc.aio
import msgspec

from tracker_client.endpoints.address_choice import AddressHistory
from tracker_client.endpoints.endpoint import (
    Endpoint,
    EndpointFile,
    EndpointSource,
    FixedEndpoint,
    is_address,
)
from tracker_client.errors import EndpointError as ClientEndpointError
from tracker_client.transport.channel import CHANNEL_OPTIONS
from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.errors import ClientRefused, SettingsError, TrackerDaemonError, UpstreamUnavailable
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.settings.directories import absolute
from tracker_protocol import ADMIT_METHOD, PROTOCOL_VERSION, STREAM_METHOD, TOKEN_METADATA_KEY, limits
from tracker_protocol.v1 import tracker_pb2 as pb

_REFUSALS = {
    grpc.StatusCode.ALREADY_EXISTS: ClientRefused,
    grpc.StatusCode.INVALID_ARGUMENT: SettingsError,
}


@dataclass(frozen=True, slots=True)
class RootConnection:
    """An open channel to the root; with ``endpoint`` others can open their own."""

    address: str
    endpoint: Endpoint
    channel: grpc.aio.Channel

    @property
    def _metadata(self) -> tuple[tuple[str, str], ...]:
        return ((TOKEN_METADATA_KEY, f"Bearer {self.endpoint.token}"),) if self.endpoint.token else ()

    def stream(self) -> Any:
        """Call the Stream method; return a :class:`grpc.aio.StreamStreamCall`."""
        method: Any = self.channel.stream_stream(
            STREAM_METHOD, pb.ClientMessage.SerializeToString, pb.DaemonMessage.FromString
        )
        return method(metadata=self._metadata)

    async def admit(self, request: pb.AdmitRequest) -> pb.AdmitReply:
        """Ask the root to admit a rank.

        Raises:
            AioRpcError: the root refuses, or cannot be reached.
        """
        method: Any = self.channel.unary_unary(
            ADMIT_METHOD, pb.AdmitRequest.SerializeToString, pb.AdmitReply.FromString
        )
        reply: pb.AdmitReply = await method(request, timeout=limits.ADMIT_TIMEOUT_S, metadata=self._metadata)
        return reply


class Root:
    """The root that this daemon forwards to. Its endpoint is read again for each connection."""

    def __init__(self, source: EndpointSource) -> None:
        self._source = source
        self._address_history = AddressHistory()
        self._choosing = asyncio.Lock()

    def __str__(self) -> str:
        return str(self._source)

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[RootConnection]:
        """Open a connection; it is closed at the end of the ``with`` block.

        Raises:
            UpstreamUnavailable: the root cannot be found or reached, or a call in the block fails so.
            ClientRefused, SettingsError: the root refuses a call in the block.
        """
        async with self._choosing:
            endpoint, address = await asyncio.to_thread(self._choose)
        try:
            async with _channel(address, endpoint.tls_root_pem) as channel:
                yield RootConnection(address, endpoint, channel)
        except grpc.aio.AioRpcError as error:
            self._address_history.failed(address)
            raise self._translated(address, error) from None

    def _choose(self) -> tuple[Endpoint, str]:
        try:
            endpoint = self._source.read()
            return endpoint, self._address_history.choose(endpoint.addresses)
        except ClientEndpointError as error:
            msg = f"the root cannot be reached: {error}"
            raise UpstreamUnavailable(msg) from None

    def worked(self, address: str) -> None:
        """Note that the root answered at ``address``."""
        self._address_history.worked(address)

    def _translated(self, address: str, error: grpc.aio.AioRpcError) -> TrackerDaemonError:
        kind = _REFUSALS.get(error.code())
        if kind is not None:
            return kind(error.details() or error.code().name)
        if error.code() is grpc.StatusCode.UNAUTHENTICATED:
            advice = "refuses the token: set upstream_token, or name its endpoint file"
        elif error.code() is grpc.StatusCode.UNIMPLEMENTED:
            advice = "does not support nodes: install the same version of tracker-daemon for both"
        else:
            advice = f"cannot be reached ({error.details() or error.code().name})"
        return UpstreamUnavailable(f"the root, at {address}, {advice}")


def _channel(address: str, tls_root_pem: bytes | None) -> grpc.aio.Channel:
    if tls_root_pem is None or address.startswith("unix:"):
        return grpc.aio.insecure_channel(address, CHANNEL_OPTIONS)
    return grpc.aio.secure_channel(address, grpc.ssl_channel_credentials(tls_root_pem), CHANNEL_OPTIONS)


def root_source(settings: Settings) -> EndpointSource:
    """Return the source of the root's endpoint that ``settings.upstream`` names.

    Raises:
        SettingsError: the setting is no endpoint, or the certificate cannot be read.
    """
    text = settings.upstream or ""
    secret = settings.upstream_token or settings.token
    token = secret.get_secret_value() if secret is not None else None
    addresses = tuple(part.strip() for part in text.split(","))
    if all(map(is_address, addresses)):
        return FixedEndpoint(Endpoint(addresses, token, _pem(settings.upstream_tls_root)))
    if "/" in text or text.endswith(".json") or Path(text).is_file():
        given = settings.upstream_token
        return EndpointFile(absolute(Path(text)), given.get_secret_value() if given is not None else None)
    msg = f"upstream = {text!r} is not host:port, unix:/path or the path of an endpoint file"
    raise SettingsError(msg)


def root_info(settings: Settings) -> EndpointInfo:
    """Return the root's endpoint, for commands that call the root.

    Raises:
        DaemonNotRunning: the endpoint file does not exist.
        EndpointError: the endpoint file cannot be read.
        SettingsError: the setting ``upstream`` is no endpoint.
    """
    source = root_source(settings)
    if isinstance(source, EndpointFile):
        info = EndpointInfo.read(source.path)
        return info if source.token is None else msgspec.structs.replace(info, token=source.token)
    endpoint = source.read()
    return EndpointInfo(
        endpoint=endpoint.addresses[0],
        endpoints=endpoint.addresses,
        token=endpoint.token or "",
        tls_root_pem=endpoint.tls_root_pem.decode() if endpoint.tls_root_pem else None,
        pid=0,
        host="",
        protocol_version=PROTOCOL_VERSION,
    )


def _pem(path: Path | None) -> bytes | None:
    try:
        return path.read_bytes() if path is not None else None
    except OSError as error:
        msg = f"upstream_tls_root names {path}, which cannot be read: {error.strerror}"
        raise SettingsError(msg) from error

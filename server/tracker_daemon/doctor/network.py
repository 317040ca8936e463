"""Checks addresses, a running daemon, and proxies between them."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import grpc.aio

from tracker_daemon.doctor.finding import Finding, good, note, problem
from tracker_daemon.endpoints.binding import bind
from tracker_daemon.endpoints.control import DaemonClient
from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_daemon.errors import EndpointError, SettingsError
from tracker_daemon.ingest.server import SERVER_OPTIONS
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.settings.listen_address import is_loopback, unix_path
from tracker_daemon.status import document as status_document
from tracker_daemon.upstream.root import root_info

_PROXIES = ("http_proxy", "https_proxy", "all_proxy", "grpc_proxy")
_CALL_TIMEOUT_S = 5.0


def examine_listening(addresses: Sequence[str], *, for_several_hosts: bool = True) -> Iterator[Finding]:
    """Check that a daemon could listen at ``addresses``, and that its clients could reach it there."""
    for address in addresses:
        yield _try_listening(address)
    if for_several_hosts and all(is_loopback(address) for address in addresses):
        yield note(
            "addresses",
            "only processes of this host can reach a daemon there",
            "for ranks on several nodes: --listen 0.0.0.0:0",
        )


def _try_listening(address: str) -> Finding:
    path = unix_path(address)
    if path is not None and path.exists():
        return note("addresses", f"{address} exists already; a daemon would replace it")
    try:
        found = asyncio.run(_bound(address))
    except SettingsError as error:
        return problem(
            "addresses", str(error), "choose a free address with --listen; port 0 chooses a free port"
        )
    finally:
        if path is not None:
            path.unlink(missing_ok=True)
    return good("addresses", f"{address} can be listened at, as {', '.join(found)}")


async def _bound(address: str) -> list[str]:
    server = grpc.aio.server(options=SERVER_OPTIONS)
    try:
        return bind(server, address)
    finally:
        await server.stop(None)


def examine_upstream(settings: Settings) -> Iterator[Finding]:
    """Check that the root can be reached from here, at each of its addresses."""
    subject = "daemon to forward to"
    try:
        info = root_info(settings)
    except (SettingsError, EndpointError) as error:
        yield problem(subject, str(error), "start it first, or give its address or endpoint file: --upstream")
        return
    yield from examine_daemon(info, subject)


def examine_daemon(info: EndpointInfo, subject: str = "daemon") -> Iterator[Finding]:
    """Check that a running daemon can be reached from here, at each of its addresses."""
    for address in info.endpoints or (info.endpoint,):
        only = EndpointInfo(
            address, (address,), info.token, info.tls_root_pem, info.pid, info.host, info.protocol_version
        )
        try:
            document = status_document.decode(DaemonClient(only).status(_CALL_TIMEOUT_S))
        except EndpointError as error:
            yield problem(subject, str(error), "check its log, the firewall between, and --listen")
        else:
            yield good(
                subject, f"{address} answers: version {document.daemon.version}, {len(document.runs)} runs"
            )


def examine_proxies(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Note proxies: they apply to requests to MLflow and W&B, never to those of ranks."""
    for name in _PROXIES:
        value = environ.get(name) or environ.get(name.upper())
        if value:
            yield note(
                "proxies",
                f"{name} is set: backends ask their services through it; ranks connect to the daemon without",
            )


def examine_endpoint_file(path: Path | None) -> Iterator[Finding]:
    """Check that the endpoint file can be written."""
    if path is None:
        return
    place = path.parent
    if place.is_dir() and os.access(place, os.W_OK):
        yield good("endpoint file", f"{path} can be written")
    else:
        yield problem(
            "endpoint file", f"{place} is no directory that can be written", "make it, or choose another"
        )

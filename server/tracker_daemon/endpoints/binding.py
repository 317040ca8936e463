"""Binds the server to its addresses; gives the addresses and certificate for clients."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import grpc
import grpc.aio

from tracker_daemon.endpoints.certificate import Certificate, certificate_for
from tracker_daemon.endpoints.host_addresses import advertised_hosts
from tracker_daemon.errors import SettingsError
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.settings.listen_address import unix_path


@dataclass(frozen=True, slots=True)
class BoundAddresses:
    """All addresses for clients to try, in order, and the certificate to verify them with (None: no TLS)."""

    endpoints: tuple[str, ...]
    tls_root_pem: str | None


def bind_all(server: grpc.aio.Server, settings: Settings, state_dir: Path) -> BoundAddresses:
    """Listen at all addresses of the settings.

    Unix sockets are never encrypted: their data does not leave the kernel.

    Raises:
        SettingsError: an address cannot be bound, an interface does not exist, or a certificate is unusable.
    """
    addresses, interfaces = settings.listen_at, settings.interface
    networked = [_host(address) for address in addresses if unix_path(address) is None]
    hosts = [host for listened in networked for host in advertised_hosts(listened, interfaces)]
    certificate = certificate_for(settings, state_dir, hosts)
    endpoints = [e for address in addresses for e in bind(server, address, interfaces, certificate)]
    root = certificate.chain.decode("ascii", "replace") if certificate is not None else None
    return BoundAddresses(tuple(endpoints), root)


def _host(address: str) -> str:
    return address.rpartition(":")[0]


def bind(
    server: grpc.aio.Server,
    address: str,
    interfaces: Sequence[str] = (),
    certificate: Certificate | None = None,
) -> list[str]:
    """Listen at ``address``; return the endpoints for clients, those of ``interfaces`` first.

    Raises:
        SettingsError: the address cannot be bound, or an interface does not exist.
    """
    path = unix_path(address)
    if path is not None:
        # A second bind would silently take over the socket; the state directory's lock prevents that.
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
    try:
        if path is not None or certificate is None:
            port = server.add_insecure_port(address)
        else:
            pair = (certificate.key, certificate.chain)
            port = server.add_secure_port(address, grpc.ssl_server_credentials([pair]))
    except RuntimeError as error:
        advice = "choose another with --listen"
        if certificate is not None and path is None:
            advice += ", or see that tls_cert and tls_key are PEM files that belong together"
        raise SettingsError(f"cannot listen at {address}: {error}; {advice}") from error
    if path is not None:
        return [address]
    return [f"{host}:{port}" for host in advertised_hosts(_host(address), interfaces)]

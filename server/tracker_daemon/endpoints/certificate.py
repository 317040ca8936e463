"""The daemon's TLS certificate: the user's, or one made here.

A certificate made here is stored in the state directory and is its own root. Clients get it from the endpoint
file, and verify with it that the server at a numeric address is this daemon. It is kept over restarts, so
that a copy of it (TRACKER_TLS_ROOT) stays valid where no file system is shared. It is replaced when the host
has an address that it does not name.
"""

from __future__ import annotations

import datetime as dt
import importlib.util
import ipaddress
import os
import socket
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from tracker_daemon.errors import SettingsError
from tracker_daemon.settings.definitions import Settings
from tracker_protocol import limits

if TYPE_CHECKING:
    from cryptography import x509
    from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey

CERTIFICATE_FILE_NAME = "tls-cert.pem"
KEY_FILE_NAME = "tls-key.pem"
ALWAYS_NAMED = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class Certificate:
    """A certificate chain, the daemon's own first, and its key, in PEM. Clients use the chain as root."""

    chain: bytes
    key: bytes = field(repr=False)


def certificate_for(settings: Settings, state_dir: Path, hosts: Iterable[str]) -> Certificate | None:
    """Return the certificate for a daemon reached at ``hosts``; None if TLS is off.

    Raises:
        SettingsError: the given files cannot be read, or no certificate can be made here.
    """
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise SettingsError(
            "tls_cert and tls_key belong together: set both, or tls alone to have a certificate made"
        )
    if settings.tls_cert is not None and settings.tls_key is not None:
        return Certificate(_read("tls_cert", settings.tls_cert), _read("tls_key", settings.tls_key))
    if not settings.tls:
        return None
    if importlib.util.find_spec("cryptography") is None:
        raise SettingsError(
            "tls makes a certificate with the package cryptography, which is not installed; "
            "run: pip install 'tracker-daemon[tls]', or set tls_cert and tls_key"
        )
    names = sorted({host.strip("[]") for host in hosts} | {socket.gethostname(), *ALWAYS_NAMED})
    return _kept(state_dir, names) or _made(state_dir, names)


def _read(setting: str, path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise SettingsError(f"{setting} = {path} cannot be read: {error.strerror}") from error


def _kept(state_dir: Path, names: list[str]) -> Certificate | None:
    """Return the stored certificate if it covers all ``names`` and does not expire soon; else None."""
    from cryptography import x509  # noqa: PLC0415  an extra, which only this needs

    try:
        found = Certificate(
            (state_dir / CERTIFICATE_FILE_NAME).read_bytes(), (state_dir / KEY_FILE_NAME).read_bytes()
        )
        certificate = x509.load_pem_x509_certificate(found.chain)
    except (OSError, ValueError):
        return None
    until = certificate.not_valid_after_utc - dt.timedelta(days=limits.TLS_RENEWED_BEFORE_DAYS)
    if until < dt.datetime.now(dt.timezone.utc):
        return None
    named = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return found if set(map(_general_name, names)) <= set(named) else None


def _made(state_dir: Path, names: list[str]) -> Certificate:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415  as above
    from cryptography.hazmat.primitives.asymmetric import ec  # noqa: PLC0415  as above

    key = ec.generate_private_key(ec.SECP256R1())
    made = Certificate(
        _signed(key, names).public_bytes(serialization.Encoding.PEM),
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        ),
    )
    _write_private(state_dir / KEY_FILE_NAME, made.key)
    _write_private(state_dir / CERTIFICATE_FILE_NAME, made.chain)
    return made


def _signed(key: EllipticCurvePrivateKey, names: list[str]) -> x509.Certificate:
    from cryptography import x509  # noqa: PLC0415  as above
    from cryptography.hazmat.primitives import hashes  # noqa: PLC0415  as above
    from cryptography.x509.oid import NameOID  # noqa: PLC0415  as above

    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "tracker-daemon")])
    now = dt.datetime.now(dt.timezone.utc)
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - dt.timedelta(days=1))  # the ranks' clocks may be behind
        .not_valid_after(now + dt.timedelta(days=limits.TLS_VALID_DAYS))
        .add_extension(x509.SubjectAlternativeName(map(_general_name, names)), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )


def _general_name(name: str) -> x509.GeneralName:
    from cryptography import x509  # noqa: PLC0415  as above

    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def _write_private(path: Path, content: bytes) -> None:
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)

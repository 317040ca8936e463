"""Authentication at an MLflow server: the bearer token, the X-Api-Key header, certificates.

MLflow itself reads ``MLFLOW_TRACKING_TOKEN``, ``…_USERNAME`` and ``…_PASSWORD``, ``…_AUTH`` (a plugin),
``…_CLIENT_CERT_PATH``, ``…_SERVER_CERT_PATH`` and ``…_INSECURE_TLS``. This module adds a token from a file
or a command, which is read again when it is refused; a key that is sent as ``X-Api-Key``; and the reason of
a failed TLS handshake.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import socket
import ssl
import subprocess
from collections.abc import Iterator, Mapping
from contextvars import ContextVar
from pathlib import Path
from urllib.parse import urlsplit

from tracker_daemon.errors import BackendRefused
from tracker_protocol import limits

_API_KEY_VARIABLES = ("AMSC_API_KEY", "AM_SC_API_KEY")
_CERTIFICATE_VARIABLES = ("MLFLOW_TRACKING_CLIENT_CERT_PATH", "MLFLOW_TRACKING_SERVER_CERT_PATH")
_CLIENT_CERTIFICATE_ALERTS = (
    "TLSV13_ALERT_CERTIFICATE_REQUIRED",
    "TLSV1_ALERT_UNKNOWN_CA",
    "SSLV3_ALERT_HANDSHAKE_FAILURE",
    "SSLV3_ALERT_BAD_CERTIFICATE",
    "SSLV3_ALERT_CERTIFICATE_EXPIRED",
    "SSLV3_ALERT_CERTIFICATE_REVOKED",
    "SSLV3_ALERT_CERTIFICATE_UNKNOWN",
    "SSLV3_ALERT_UNSUPPORTED_CERTIFICATE",
)
"""OpenSSL's names of the alerts by which a server refuses the client's certificate."""


class TokenSource:
    """The bearer token, from a file or a command if one is named; read again after a refusal."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        self._file = environ.get("MLFLOW_TRACKING_TOKEN_FILE", "").strip()
        self._command = environ.get("MLFLOW_TRACKING_TOKEN_COMMAND", "").strip()

    def renew(self) -> bool:
        """Read the token again; return True if it has changed.

        Raises:
            BackendRefused: the file or the command gives no token.
        """
        if not (self._file or self._command):
            return False
        token = self._read()
        changed = token != os.environ.get("MLFLOW_TRACKING_TOKEN")
        # MLflow reads the token from this variable at each request, and nowhere else.
        os.environ["MLFLOW_TRACKING_TOKEN"] = token
        return changed

    def _read(self) -> str:
        try:
            text = self._text_of_file() if self._file else _output_of(shlex.split(self._command))
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            raise self._no_token(_reason(error)) from error
        if len(text.split()) != 1:
            raise self._no_token("it gives no single word")
        return text.strip()

    def _text_of_file(self) -> str:
        with Path(self._file).expanduser().open("rb") as file:
            return file.read(limits.MLFLOW_TOKEN_MAX_BYTES).decode()

    def _no_token(self, reason: str) -> BackendRefused:
        # The command itself is never shown: its arguments may hold a secret.
        variable = f"MLFLOW_TRACKING_TOKEN_{'FILE' if self._file else 'COMMAND'}"
        where = f" ({self._file})" if self._file else ""
        return BackendRefused(
            f"{variable}{where} in the daemon's environment gives no token for MLflow: {reason}; "
            "correct that, and delivery continues"
        )


def _output_of(command: list[str]) -> str:
    """Return the output of a command of the daemon's user; nothing of it is written anywhere else."""
    reading, writing = os.pipe()
    try:
        # The pipe is read only after the command has ended: a process that the command leaves running may
        # hold the pipe open, and a text that does not fit into a pipe is no token.
        subprocess.run(  # noqa: S603
            command,
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=subprocess.DEVNULL,
            timeout=limits.MLFLOW_TOKEN_COMMAND_TIMEOUT_S,
        )
        os.set_blocking(reading, False)
        return os.read(reading, limits.MLFLOW_TOKEN_MAX_BYTES).decode()
    except BlockingIOError:
        return ""
    finally:
        os.close(reading)
        os.close(writing)


def _reason(error: Exception) -> str:
    if isinstance(error, subprocess.CalledProcessError):
        return f"exit status {error.returncode}"
    if isinstance(error, subprocess.TimeoutExpired):
        return f"no end within {limits.MLFLOW_TOKEN_COMMAND_TIMEOUT_S:g} s"
    if isinstance(error, OSError):
        return error.strerror or type(error).__name__
    return type(error).__name__  # the text would show the token


# ---- X-Api-Key -----------------------------------------------------------------------------------

_current_api_key: ContextVar[str | None] = ContextVar("tracker_mlflow_api_key", default=None)
_header_registered = False


def api_key(environ: Mapping[str, str]) -> str | None:
    """Return the key to send as ``X-Api-Key``; None if there is a bearer token."""
    if any(environ.get(f"MLFLOW_TRACKING_TOKEN{kind}") for kind in ("", "_FILE", "_COMMAND")):
        return None
    return next((environ[name] for name in _API_KEY_VARIABLES if environ.get(name)), None)


def register_api_key_header() -> None:
    """Let MLflow add the X-Api-Key header to the requests that are made within :func:`sent_with`."""
    global _header_registered  # noqa: PLW0603  # MLflow's registry is global too, and has no removal
    if _header_registered:
        return
    from mlflow.tracking.request_header.registry import _request_header_provider_registry  # noqa: PLC0415

    class ApiKeyHeader:
        def in_context(self) -> bool:
            return _current_api_key.get() is not None

        def request_headers(self) -> dict[str, str]:
            return {"X-Api-Key": _current_api_key.get() or ""}

    _request_header_provider_registry.register(ApiKeyHeader)
    _header_registered = True


@contextlib.contextmanager
def sent_with(key: str | None) -> Iterator[None]:
    """Send the key with the requests of the block, and with no others: they may go to other servers."""
    before = _current_api_key.set(key)
    try:
        yield
    finally:
        _current_api_key.reset(before)


# ---- certificates --------------------------------------------------------------------------------


def prepare_tls(environ: Mapping[str, str]) -> None:
    """Check that the certificates' files can be read; MLflow would only report a failed request.

    Raises:
        BackendRefused: a file is missing, or may not be read.
    """
    for name in _CERTIFICATE_VARIABLES:
        if path := environ.get(name, ""):
            _require_readable(name, Path(path))
    if environ.get("MLFLOW_TRACKING_INSECURE_TLS", "").strip().lower() in {"1", "true"}:
        import urllib3  # noqa: PLC0415  # comes with mlflow

        urllib3.disable_warnings(urllib3.exceptions.InsecureRequestWarning)


def tls_refusal(error: BaseException, uri: str, environ: Mapping[str, str]) -> str | None:
    """Return the certificate's fault that caused ``error`` at ``uri``, and a remedy; None if none did."""
    cause = _tls_error(error)
    if cause is None or (
        cause.reason not in _CLIENT_CERTIFICATE_ALERTS and not isinstance(cause, ssl.SSLCertVerificationError)
    ):
        cause = _alert_after_handshake(uri, environ)
    if isinstance(cause, ssl.SSLCertVerificationError):
        return (
            f"shows a certificate that is not trusted ({cause.verify_message}); set "
            "MLFLOW_TRACKING_SERVER_CERT_PATH to its authority's in the daemon's environment"
        )
    if cause is not None and cause.reason in _CLIENT_CERTIFICATE_ALERTS:
        return (
            f"asks for a client certificate that it trusts ({cause.reason}); set "
            "MLFLOW_TRACKING_CLIENT_CERT_PATH to a file with certificate and key in the daemon's environment"
        )
    return None


def _alert_after_handshake(uri: str, environ: Mapping[str, str]) -> ssl.SSLError | None:
    """Connect and return the alert by which the server refuses the client's certificate.

    The server sends the alert after the handshake, while the client already writes its request. That
    request then only reports a closed connection. So this connection writes nothing and waits for the
    alert.
    """
    address = urlsplit(uri)
    if address.scheme != "https" or not address.hostname:
        return None
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # this connection sends no data
    if path := environ.get("MLFLOW_TRACKING_CLIENT_CERT_PATH"):
        context.load_cert_chain(path)
    timeout_s = limits.MLFLOW_HANDSHAKE_ALERT_WAIT_S
    try:
        with (
            socket.create_connection((address.hostname, address.port or 443), timeout_s) as plain,
            context.wrap_socket(plain, server_hostname=address.hostname) as secured,
        ):
            secured.recv(1)
    except ssl.SSLError as error:
        return error
    except OSError:  # no alert in time, or no connection
        return None
    return None


def _require_readable(variable: str, path: Path) -> None:
    try:
        if not path.is_dir():  # requests accepts a directory of authorities too
            path.open("rb").close()
    except OSError as error:
        raise BackendRefused(
            f"{variable} names {path}, which cannot be read: {error.strerror}; put the file there, where "
            "the daemon's user can read it"
        ) from error


def _tls_error(error: BaseException) -> ssl.SSLError | None:
    """Return the TLS error among the direct and indirect causes of ``error``."""
    pending: list[object] = [error]
    seen: set[int] = set()
    while pending:
        cause = pending.pop()
        if isinstance(cause, ssl.SSLError):
            return cause
        if isinstance(cause, BaseException) and id(cause) not in seen:
            seen.add(id(cause))
            pending += [cause.__cause__, cause.__context__, getattr(cause, "reason", None), *cause.args]
    return None

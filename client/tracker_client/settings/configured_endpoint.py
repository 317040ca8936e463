"""The endpoint that the script or its environment names, with the token and the certificate for it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from tracker_client.endpoints.endpoint import (
    Endpoint,
    EndpointFile,
    EndpointSource,
    FixedEndpoint,
    is_address,
)
from tracker_client.errors import EndpointError, SettingsError
from tracker_client.settings.single_values import first_given

ENDPOINT_VARIABLES = ("TRACKER_ENDPOINT", "TRACKER_ENDPOINT_FILE")


def endpoint_source(
    environ: Mapping[str, str], endpoint: str | os.PathLike[str] | None, token: str | None
) -> EndpointSource | None:
    """Return the configured endpoint; None if none is configured and the launch starts its own daemon."""
    if endpoint is None:
        endpoint = first_given(environ, ENDPOINT_VARIABLES, None)
    if endpoint is None:
        return None
    token = token or _token(environ)
    text = os.fspath(endpoint)
    addresses = tuple(part.strip() for part in text.split(","))
    if all(map(is_address, addresses)):
        return FixedEndpoint(Endpoint(addresses, token, _tls_root(environ)))
    if "/" in text or text.endswith(".json") or Path(text).exists():
        return EndpointFile(_endpoint_path(text), token)
    raise EndpointError(f"endpoint {text!r} is not host:port, unix:/path or the path of an endpoint file")


def _endpoint_path(text: str) -> Path:
    try:
        return Path(os.path.expanduser(text)).absolute()  # noqa: PTH111 - Path's raises RuntimeError
    except FileNotFoundError:
        raise EndpointError(
            f"endpoint is {text!r}, relative to the working directory, and that has been deleted; "
            "name the endpoint file in full"
        ) from None


def _token(environ: Mapping[str, str]) -> str | None:
    if environ.get("TRACKER_TOKEN"):
        return environ["TRACKER_TOKEN"]
    path = environ.get("TRACKER_TOKEN_FILE")
    return _read_file("TRACKER_TOKEN_FILE", path).decode().strip() if path else None


def _tls_root(environ: Mapping[str, str]) -> bytes | None:
    path = environ.get("TRACKER_TLS_ROOT")
    return _read_file("TRACKER_TLS_ROOT", path) if path else None


def _read_file(variable: str, path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise SettingsError(f"{variable} names {path}, which cannot be read: {error.strerror}") from None

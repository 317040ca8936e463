"""The daemon's endpoint: a fixed address, or an endpoint file that is read again at each connection.

A restarted daemon may listen on another port, which its endpoint file then holds. So the endpoint is read at
every connection and never kept.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from tracker_client.errors import EndpointError

_HOST_AND_PORT = re.compile(r"(\[[0-9A-Fa-f:.%\w]+\]|[^\s/:\[\]]+):\d{1,5}")


@dataclass(frozen=True)
class Endpoint:
    """The addresses of a daemon, with the token and the certificate that a connection needs.

    Attributes:
        addresses: each ``host:port`` or ``unix:/path``.
        token: the daemon's token; None if it is not known.
        tls_root_pem: the root certificate, in PEM; None for a connection without TLS.
        launch_file: the name of the launch's endpoint file that this is from; "" for any other endpoint.
    """

    addresses: tuple[str, ...]
    token: str | None = field(default=None, repr=False)
    tls_root_pem: bytes | None = field(default=None, repr=False)
    launch_file: str = ""


class EndpointSource(Protocol):
    """A source that the endpoint is read from at each connection."""

    def read(self) -> Endpoint:
        """Return the current endpoint.

        Raises:
            EndpointError: the endpoint is not known now; a later call may succeed.
        """


@dataclass(frozen=True)
class FixedEndpoint:
    """An address that does not change."""

    endpoint: Endpoint

    def read(self) -> Endpoint:
        """Return the endpoint."""
        return self.endpoint

    def __str__(self) -> str:
        return ", ".join(self.endpoint.addresses)


@dataclass(frozen=True)
class EndpointFile:
    """A file that the daemon writes once it is ready; ``token`` overrides the file's."""

    path: Path
    token: str | None = field(default=None, repr=False)

    def read(self) -> Endpoint:
        """Read the endpoint from the file.

        Raises:
            EndpointError: the file is missing, unreadable or not an endpoint file.
        """
        try:
            document = json.loads(self.path.read_bytes())
        except FileNotFoundError:
            raise EndpointError(
                f"the endpoint file {self.path} is not there (yet): is a daemon started?"
            ) from None
        except (OSError, ValueError) as error:
            raise EndpointError(f"the endpoint file {self.path} cannot be read: {error}") from None
        return self._checked(document)

    def _checked(self, document: Any) -> Endpoint:
        try:
            return endpoint_in(document, self.token)
        except ValueError as error:
            raise EndpointError(f"{self.path} is not an endpoint file: {error}") from None

    def __str__(self) -> str:
        return str(self.path)


def endpoint_in(document: Any, token: str | None = None) -> Endpoint:
    """Return the endpoint in ``document``, an endpoint file's JSON; ``token`` wins over the file's token.

    Raises:
        ValueError: ``document`` holds no endpoint.
    """
    fields = document if isinstance(document, dict) else {}
    addresses = fields.get("endpoints") or [fields.get("endpoint")]
    if not isinstance(addresses, list) or not all(map(is_address, addresses)):
        raise ValueError("it names no host:port and no unix:/path")
    pem = fields.get("tls_root_pem")
    return Endpoint(tuple(addresses), token or fields.get("token"), pem.encode() if pem else None)


def is_address(text: object) -> bool:
    """Return True if ``text`` is ``host:port`` or ``unix:/path``."""
    if not isinstance(text, str):
        return False
    return text.startswith("unix:") or _HOST_AND_PORT.fullmatch(text) is not None

"""Where the daemon is: an address that was given, or an endpoint file that is read again each time.

A daemon that is restarted may listen on another port, and its endpoint file tells which; so a source
is asked at every connection and never remembered.
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
    """Addresses to try in turn, each ``host:port`` or ``unix:/path``, and what it takes to be let in."""

    addresses: tuple[str, ...]
    token: str | None = field(default=None, repr=False)
    tls_root_pem: bytes | None = field(default=None, repr=False)


class EndpointSource(Protocol):
    """Tells the endpoint as it is now."""

    def read(self) -> Endpoint:
        """The endpoint.

        Raises:
            EndpointError: it cannot be told now; it may be later.
        """


@dataclass(frozen=True)
class FixedEndpoint:
    """An address that does not change."""

    endpoint: Endpoint

    def read(self) -> Endpoint:
        """The endpoint."""
        return self.endpoint

    def __str__(self) -> str:
        return ", ".join(self.endpoint.addresses)


@dataclass(frozen=True)
class EndpointFile:
    """A file that the daemon writes once it is ready; ``token`` overrides the file's."""

    path: Path
    token: str | None = field(default=None, repr=False)

    def read(self) -> Endpoint:
        """The endpoint that the file tells now.

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
    """The endpoint that the JSON of an endpoint file tells; ``token`` goes before the file's.

    Raises:
        ValueError: it tells none.
    """
    fields = document if isinstance(document, dict) else {}
    addresses = fields.get("endpoints") or [fields.get("endpoint")]
    if not isinstance(addresses, list) or not all(map(is_address, addresses)):
        raise ValueError("it names no host:port and no unix:/path")
    pem = fields.get("tls_root_pem")
    return Endpoint(tuple(addresses), token or fields.get("token"), pem.encode() if pem else None)


def is_address(text: object) -> bool:
    """Whether ``text`` is ``host:port`` or ``unix:/path``."""
    if not isinstance(text, str):
        return False
    return text.startswith("unix:") or _HOST_AND_PORT.fullmatch(text) is not None

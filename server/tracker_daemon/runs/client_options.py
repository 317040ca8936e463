"""What a client may say about backends: selectors, never secrets or addresses.

A client that could choose where a backend's requests go could have the daemon's key sent to a host of
its own, and one that sends a key would have it journalled. Both are refused, by the option's name.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tracker_daemon.errors import ProtocolError, SettingsError

OPTIONS_MAX_BYTES = 64 * 1024
_DAEMONS_OWN = frozenset(
    {
        "api_key", "key", "token", "password", "username", "secret", "auth", "headers", "cookies",
        "base_url", "host", "url", "uri", "tracking_uri", "registry_uri", "tracking_token", "proxy",
        "http_proxy", "https_proxy", "x_extra_http_headers", "artifact_location", "settings",
    }
)  # fmt: skip
BackendOptions = dict[str, dict[str, Any]]

_decode_options = msgspec.json.Decoder(BackendOptions).decode
_decode_texts = msgspec.json.Decoder(dict[str, str]).decode


def read_backend_options(document: str) -> BackendOptions:
    """Decode and check a Hello's ``backend_options``; "" is none.

    Raises:
        ProtocolError: it is not an object of objects, or too large.
        SettingsError: it has an option that only the daemon may set.
    """
    _check_size("backend options", document)
    try:
        options = _decode_options(document or "{}")
    except msgspec.DecodeError as error:
        raise ProtocolError(f"the backend options are not a JSON object of objects: {error}") from error
    for backend, own in options.items():
        refused = sorted(name for name in own if name.lower() in _DAEMONS_OWN)
        if refused:
            raise SettingsError(
                f"{backend}'s option {refused[0]!r} may not come from a client, since it could send the "
                "daemon's credentials elsewhere; set it in the daemon's environment"
            )
    return options


def read_environment(document: str) -> dict[str, str]:
    """Decode a Hello's ``environment``; "" is none.

    Raises:
        ProtocolError: it is not an object of texts, or too large.
    """
    _check_size("description of the script", document)
    try:
        return _decode_texts(document or "{}")
    except msgspec.DecodeError as error:
        raise ProtocolError(
            f"the description of the script is not a JSON object of texts: {error}"
        ) from error


def _check_size(what: str, document: str) -> None:
    if len(document.encode()) > OPTIONS_MAX_BYTES:
        raise ProtocolError(f"the {what} has more than {OPTIONS_MAX_BYTES} bytes")

"""Decodes the parts of a Hello about backends and the script: selectors, never secrets or addresses.

An option that only the daemon may set is refused by its name (``tracker_protocol.backend_options``).
"""

from __future__ import annotations

from typing import Any

import msgspec

from tracker_daemon.errors import ProtocolError, SettingsError
from tracker_protocol import limits
from tracker_protocol.backend_options import find_daemon_only

_PATH_SHOWN_CHARACTERS = 200
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
    except (msgspec.DecodeError, RecursionError) as error:
        raise ProtocolError(f"the backend options are not a JSON object of objects: {error}") from error
    for backend, own in options.items():
        if found := find_daemon_only(own, backend):
            shown = found[0][2][:_PATH_SHOWN_CHARACTERS]
            raise SettingsError(
                f"the option {shown} may not be sent by a client, since it could send the daemon's "
                "credentials to another host; set it in the daemon's environment"
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
    if len(document.encode()) > limits.BACKEND_OPTIONS_MAX_BYTES:
        raise ProtocolError(f"the {what} has more than {limits.BACKEND_OPTIONS_MAX_BYTES} bytes")

"""Finds the daemon that the command line means: an address, an endpoint file or a state directory.

The command line has precedence. Next are ``TRACKER_ENDPOINT`` and ``TRACKER_ENDPOINT_FILE``, as clients read
them. Last are the default places of the endpoint files of ``run`` and ``serve``.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tracker_daemon.endpoints.endpoint_file import ENDPOINT_FILE_NAME, EndpointInfo
from tracker_daemon.errors import DaemonNotRunning, EndpointError, SettingsError
from tracker_daemon.settings.directories import absolute, default_state_directory
from tracker_daemon.settings.listen_address import normalised
from tracker_protocol import PROTOCOL_VERSION
from tracker_protocol.run_files import DEFAULT_OUTPUT_DIRECTORY, STATE_DIRECTORY


@dataclass(frozen=True, slots=True)
class EndpointChoice:
    """The options that name a daemon; None for each that is not given."""

    endpoint: str | None = None
    endpoint_file: Path | None = None
    state_dir: Path | None = None


def locate(choice: EndpointChoice, environ: Mapping[str, str]) -> EndpointInfo:
    """Return the endpoint of the daemon named by ``choice``, the environment or the usual places.

    Raises:
        DaemonNotRunning: no endpoint file exists; the message names the searched places.
        EndpointError: an endpoint file or address is unusable.
    """
    if choice.endpoint is not None:
        return _at(choice.endpoint, environ)
    if choice.endpoint_file is not None:
        return EndpointInfo.read(choice.endpoint_file)
    if choice.state_dir is not None:
        return EndpointInfo.read(choice.state_dir / ENDPOINT_FILE_NAME)
    if address := environ.get("TRACKER_ENDPOINT"):
        return _at(address, environ)
    if path := environ.get("TRACKER_ENDPOINT_FILE"):
        return EndpointInfo.read(Path(path))
    return _at_usual_place(environ)


def _at_usual_place(environ: Mapping[str, str]) -> EndpointInfo:
    places = list(_usual_places(environ))
    for place in places:
        if os.path.exists(place):  # noqa: PTH110 - False in a directory that is closed to this user
            return EndpointInfo.read(place)
    looked = " nor ".join(str(place) for place in places)
    msg = f"no daemon is known here (there is no {looked}); name one with --endpoint-file or --state-dir"
    raise DaemonNotRunning(msg)


def _usual_places(environ: Mapping[str, str]) -> Iterator[Path]:
    if given := environ.get("TRACKER_STATE_DIR"):
        yield Path(given) / ENDPOINT_FILE_NAME
    for outdir in filter(None, (environ.get("TRACKER_OUTDIR"), DEFAULT_OUTPUT_DIRECTORY, ".")):
        with suppress(SettingsError):  # a working directory that has been deleted holds no daemon
            yield absolute(Path(outdir, STATE_DIRECTORY)) / ENDPOINT_FILE_NAME
    yield default_state_directory() / ENDPOINT_FILE_NAME


def _at(text: str, environ: Mapping[str, str]) -> EndpointInfo:
    """Return the daemon at an address, with the environment's token; or the one of an endpoint file."""
    if "/" in text and not text.startswith("unix:"):
        return EndpointInfo.read(Path(text))
    try:
        address = normalised(text)
    except ValueError as error:
        raise EndpointError(str(error)) from None
    return EndpointInfo(
        endpoint=address,
        endpoints=(address,),
        token=_token(address, environ),
        tls_root_pem=_content("TRACKER_TLS_ROOT", environ),
        pid=0,
        host="",
        protocol_version=PROTOCOL_VERSION,
    )


def _token(address: str, environ: Mapping[str, str]) -> str:
    token = environ.get("TRACKER_TOKEN") or _content("TRACKER_TOKEN_FILE", environ)
    if not token:
        msg = f"the daemon at {address} wants its token: set TRACKER_TOKEN or TRACKER_TOKEN_FILE"
        raise EndpointError(msg)
    return token.strip()


def _content(variable: str, environ: Mapping[str, str]) -> str | None:
    path = environ.get(variable)
    if not path:
        return None
    try:
        return Path(path).read_text(encoding="utf-8")
    except OSError as error:
        msg = f"the file {path} that {variable} names cannot be read: {error.strerror}"
        raise EndpointError(msg) from error

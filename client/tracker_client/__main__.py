"""``python -m tracker_client``: what a rank finds here, for the launcher's own command line.

For example, on each node of a job: ``mpiexec -n 4 -ppn 1 python -m tracker_client``. Prints which rank
this is and how that was found, which daemon is configured and whether it answers at each of its
addresses. It joins no run. Exits with 1 if the rank is unknown or no address answers.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator

from tracker_client.endpoints.endpoint import EndpointFile, FixedEndpoint
from tracker_client.errors import TrackerError
from tracker_client.settings.reading import ClientSettings, read_settings
from tracker_client.transport.probe import why_unreachable

CALL_TIMEOUT_S = 5.0


def main() -> None:
    """Look, tell, and exit."""
    try:
        settings = read_settings()
    except TrackerError as error:
        sys.exit(f"problem: {error}")
    rank = settings.rank
    who = f"rank {rank.rank} of {rank.world_size or 'an unknown number'} on {settings.host}"
    _say(who, f"found by {rank.source}; launch {settings.launch_key!r}")
    for warning in settings.warnings:
        _say(who, f"note: {warning}")
    reached = [_tell(who, address, problem) for address, problem in _daemons(settings)]
    sys.exit(0 if any(reached) or not reached else 1)


def _daemons(settings: ClientSettings) -> Iterator[tuple[str, str | None]]:
    """Each address of the configured daemon, with why it cannot be reached, None where it can."""
    source = settings.source
    if not isinstance(source, (FixedEndpoint, EndpointFile)):
        return  # the launch starts a daemon of its own
    try:
        endpoint = source.read()
    except TrackerError as error:
        yield str(source), str(error)
        return
    for address in endpoint.addresses:
        yield address, why_unreachable(address, endpoint, CALL_TIMEOUT_S)


def _tell(who: str, address: str, problem: str | None) -> bool:
    _say(who, f"{address} answers" if problem is None else f"problem: {address}: {problem}")
    return problem is None


def _say(who: str, text: str) -> None:
    # One write a line, so that the lines of many ranks do not run into each other.
    os.write(1, f"{who}: {text}\n".encode())


if __name__ == "__main__":
    main()

"""``python -m tracker_client``: shows the rank, the launch and the daemon that a process finds.

Run it under the launcher, for example on each node of a job: ``mpiexec -n 4 -ppn 1 python -m
tracker_client``. It prints the rank of the process and the source of the rank, and for each address of the
configured daemon whether the daemon answers. It joins no run. It exits with 1 if the rank is unknown or no
address answers.
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
    """Print what this process finds, and exit."""
    try:
        settings = read_settings()
    except TrackerError as error:
        sys.exit(f"problem: {error}")
    rank = settings.rank
    process = f"rank {rank.rank} of {rank.world_size or 'an unknown number'} on {settings.host}"
    _print(process, f"found by {rank.source}; launch {settings.launch_key!r}")
    for warning in settings.warnings:
        _print(process, f"note: {warning}")
    answers = [_print_answer(process, address, problem) for address, problem in _daemons(settings)]
    sys.exit(0 if any(answers) or not answers else 1)


def _daemons(settings: ClientSettings) -> Iterator[tuple[str, str | None]]:
    """Yield each address of the configured daemon, with the reason why it cannot be reached, or None."""
    source = settings.source
    if not isinstance(source, (FixedEndpoint, EndpointFile)):
        return  # the launch starts its own daemon
    try:
        endpoint = source.read()
    except TrackerError as error:
        yield str(source), str(error)
        return
    for address in endpoint.addresses:
        yield address, why_unreachable(address, endpoint, CALL_TIMEOUT_S)


def _print_answer(process: str, address: str, problem: str | None) -> bool:
    _print(process, f"{address} answers" if problem is None else f"problem: {address}: {problem}")
    return problem is None


def _print(process: str, text: str) -> None:
    # One write for each line, so that lines of many ranks are not mixed.
    os.write(1, f"{process}: {text}\n".encode())


if __name__ == "__main__":
    main()

"""Writes a daemon's endpoint files when it serves, and removes them at its end."""

from __future__ import annotations

import os
import socket
from pathlib import Path

from tracker_daemon.endpoints.binding import BoundAddresses
from tracker_daemon.endpoints.endpoint_file import ENDPOINT_FILE_NAME, EndpointInfo
from tracker_daemon.errors import EndpointError
from tracker_protocol import PROTOCOL_VERSION


class Announcement:
    """The endpoint files: one in the state directory, and ``given`` if the user named one."""

    def __init__(self, state_dir: Path, given: Path | None) -> None:
        own = state_dir / ENDPOINT_FILE_NAME
        self._paths = [own] if given is None or given == own else [own, given]

    def publish(self, bound: BoundAddresses, token: str) -> EndpointInfo:
        """Write the files, and return their content.

        Raises:
            EndpointError: one cannot be written.
        """
        info = EndpointInfo(
            endpoint=bound.endpoints[0],
            endpoints=bound.endpoints,
            token=token,
            tls_root_pem=bound.tls_root_pem,
            pid=os.getpid(),
            host=socket.gethostname(),
            protocol_version=PROTOCOL_VERSION,
        )
        for path in self._paths:
            info.write_atomically(path)
        return info

    def withdraw(self) -> None:
        """Remove the files, except one that another daemon has replaced since."""
        for path in self._paths:
            try:
                found = EndpointInfo.read(path)
            except EndpointError:
                continue
            if (found.pid, found.host) == (os.getpid(), socket.gethostname()):
                path.unlink(missing_ok=True)

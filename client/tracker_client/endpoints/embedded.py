"""Where no endpoint is configured: the daemon that the launch starts for itself.

Rank 0 starts a daemon (``embedded_daemon``), which publishes an endpoint file in the run's directory,
``<outdir>/.tracker/launch-<hash of the launch key>.json``. The other ranks wait for that file, on this
host or on others that share the directory. All of it happens in the background, while values are buffered.

A file may be stale: its launch key is another's, or its daemon is dead. On the daemon's own host its
process tells; from another host only the silence at its addresses does, and then rank 0, after some
vain attempts, has a daemon started that takes over or joins whichever lives. What the file says is
believed anew at each connection, and the token in it keeps a wrong daemon from being taken for the right one.
"""

from __future__ import annotations

import hashlib
import json
import os
import socket
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracker_client.endpoints.embedded_daemon import EmbeddedDaemon, demand_daemon
from tracker_client.endpoints.endpoint import Endpoint, endpoint_in
from tracker_client.errors import EmbeddedDaemonFailed, EndpointPending
from tracker_client.identity.rank import ALONE, RankInfo

STATE_DIRECTORY_NAME = ".tracker"
"""In the run's directory; the daemon's command line looks there too."""
BELIEVED_CONNECTIONS = 4
"""How often rank 0 connects to what a file says before it asks for a daemon again."""
LOCAL_SIZE_VARIABLES = (
    "LOCAL_WORLD_SIZE",
    "OMPI_COMM_WORLD_LOCAL_SIZE",
    "PALS_LOCAL_SIZE",
    "JSM_NAMESPACE_LOCAL_SIZE",
    "MPI_LOCALNRANKS",
)
_PROCESS_KEY = uuid.uuid4().hex


@dataclass(frozen=True)
class LaunchFile:
    """The endpoint file of one launch."""

    directory: Path
    launch_key: str

    @property
    def path(self) -> Path:
        """Named after the launch key, whatever characters that has."""
        digest = hashlib.sha256(self.launch_key.encode(errors="surrogateescape")).hexdigest()
        return self.directory / f"launch-{digest[:20]}.json"

    def read(self) -> dict[str, Any] | None:
        """What it says; None where there is none, or none of this launch."""
        try:
            document = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return None
        ours = isinstance(document, dict) and document.get("launch_key") == self.launch_key
        return document if ours else None


class EmbeddedEndpoint:
    """The endpoint of this launch's own daemon. ``daemon`` is rank 0's, who alone starts one."""

    def __init__(self, file: LaunchFile, daemon: EmbeddedDaemon | None) -> None:
        self._file = file
        self._daemon = daemon
        self._last: dict[str, Any] | None = None
        self._believed = 0

    def read(self) -> Endpoint:
        """The endpoint as the launch's file tells it now; rank 0 has a daemon started where none lives.

        Raises:
            EndpointPending: there is none yet.
            EmbeddedDaemonFailed: the daemon ended at once.
        """
        document = self._file.read()
        if document is not None and self._believe(document):
            try:
                return endpoint_in(document)
            except ValueError:
                pass  # as good as missing
        if self._daemon is None:
            raise EndpointPending(f"rank 0's daemon has not written {self._file.path} (yet)")
        self._daemon.ensure()
        raise EndpointPending(f"the daemon is starting, see {self._daemon.log_path}")

    def prepare(self) -> None:
        """On rank 0 begin at once: a script may be over before the sender's thread gets to it."""
        if self._daemon is None:
            return
        try:
            self.read()
        except (EndpointPending, EmbeddedDaemonFailed):
            return  # the sender sees the same, and tells the user
        self._believed = 0

    def _believe(self, document: dict[str, Any]) -> bool:
        if self._daemon is None:
            return not _is_dead(document)
        if self._daemon.is_process(document.get("pid")):
            return True
        if _is_dead(document) and not self._daemon.has_joined(document):
            return False
        self._believed = self._believed + 1 if document == self._last else 1
        self._last = document
        if self._believed > BELIEVED_CONNECTIONS:
            self._believed = 0
            return False
        return True

    def __str__(self) -> str:
        return str(self._file.path)


def embedded_endpoint(
    environ: Mapping[str, str], outdir: str | None, info: RankInfo, launch_key: str
) -> EmbeddedEndpoint:
    """The launch's own daemon, for a process that is told of no other.

    Raises:
        EndpointError: on rank 0: the daemon's packages are not installed here.
    """
    directory = Path(outdir or environ.get("TRACKER_OUTDIR") or ".").expanduser().absolute()
    # A process that is alone shares its daemon among all its runs: their launch keys differ.
    key = f"{_PROCESS_KEY}.{os.getpid()}" if info.source == ALONE else launch_key
    file = LaunchFile(directory / STATE_DIRECTORY_NAME, key)
    if info.rank != 0:
        return EmbeddedEndpoint(file, None)
    demand_daemon()
    daemon = EmbeddedDaemon.of(file.path, key, several_hosts=not _on_one_host(environ, info))
    return EmbeddedEndpoint(file, daemon)


def _on_one_host(environ: Mapping[str, str], info: RankInfo) -> bool:
    if info.world_size is None:
        return False
    sizes = {environ.get(name, "") for name in LOCAL_SIZE_VARIABLES}
    return info.world_size == 1 or str(info.world_size) in sizes


def _is_dead(document: dict[str, Any]) -> bool:
    """Whether the daemon's process is certainly gone; from another host that cannot be told."""
    pid = document.get("pid")
    if document.get("host") != socket.gethostname() or not isinstance(pid, int) or pid <= 0:
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except OSError:
        return False
    return False

"""The endpoint of a launch that starts its own daemon, because no endpoint is configured.

Rank 0 starts a daemon (``embedded_daemon``). The daemon publishes an endpoint file in the output directory,
``<outdir>/.tracker/launch-<hash of the launch key>.json``. The other ranks wait for that file, on this host
or on others that share the directory. All of this happens in the background, while values are buffered.

The ranks' directories may differ: their working directory or ``outdir`` has a time stamp, say. So the daemon
publishes the file in the user's runtime directory of its host too, and ranks there look for it in both. A
file there that is older than the rank may be that of an earlier launch with the same key; it is believed only
after ENDPOINT_OLD_WAIT_S.

A file may be stale: it belongs to another launch, or its daemon is dead. On the daemon's own host its process
shows that. From another host only connections that fail show it. After some failed connections rank 0 starts
a daemon again, which replaces the earlier daemon, or joins it if that one is alive. The file is read again at
each connection, and the token in it keeps clients from using a wrong daemon.
"""

from __future__ import annotations

import json
import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tracker_client.endpoints.embedded_daemon import EmbeddedDaemon, demand_daemon, demand_directory
from tracker_client.endpoints.endpoint import Endpoint, endpoint_in
from tracker_client.errors import EmbeddedDaemonFailed, EndpointMissing, EndpointPending
from tracker_client.identity.launch import first_process, process_key
from tracker_client.identity.own_process import age_ms
from tracker_client.identity.rank import LOCAL_SIZE_VARIABLES, RankInfo
from tracker_protocol import limits
from tracker_protocol.run_files import STATE_DIRECTORY, launch_file_name
from tracker_protocol.runtime_directory import is_private, runtime_directories

CONNECTIONS_BEFORE_RESTART = 4
"""The connections that rank 0 makes with one content of the file before it starts a daemon again."""


@dataclass(frozen=True)
class LaunchFile:
    """The endpoint file of one launch."""

    directory: Path
    launch_key: str

    @property
    def path(self) -> Path:
        """The file's path."""
        return self.directory / launch_file_name(self.launch_key)

    def read(self) -> dict[str, Any] | None:
        """Return the file's JSON object; None if there is no file, or it belongs to another launch."""
        try:
            document = json.loads(self.path.read_bytes())
        except (OSError, ValueError):
            return None
        ours = isinstance(document, dict) and document.get("launch_key") == self.launch_key
        return document if ours else None

    def age_s(self) -> float:
        """Return how long ago the file was written, in seconds; 0 if there is none any more."""
        try:
            return time.time() - self.path.stat().st_mtime
        except OSError:
            return 0.0


class HostFiles:
    """The launch's endpoint file in the runtime directories of this host and user."""

    def __init__(self, environ: Mapping[str, str], launch_key: str) -> None:
        self._directories = runtime_directories(environ)
        self._launch_key = launch_key
        self._begun_s = time.monotonic()

    def read(self) -> dict[str, Any] | None:
        """Return the JSON object of the launch's file; None if there is none to believe."""
        for directory in filter(is_private, self._directories):
            file = LaunchFile(directory, self._launch_key)
            document = file.read()
            if document is not None and not _is_dead(document) and self._is_believable(file):
                return document
        return None

    def _is_believable(self, file: LaunchFile) -> bool:
        waited_s = time.monotonic() - self._begun_s
        # The ranks of a launch begin within some seconds of one another.
        is_newer = file.age_s() <= age_ms() / 1000 + limits.ENDPOINT_OLD_WAIT_S
        return is_newer or waited_s >= limits.ENDPOINT_OLD_WAIT_S

    def __str__(self) -> str:
        return " or ".join(map(str, self._directories))


class EmbeddedEndpoint:
    """The endpoint of this launch's own daemon.

    ``daemon`` is None on ranks other than 0; these find the daemon through ``host_files`` too.
    """

    def __init__(
        self, file: LaunchFile, daemon: EmbeddedDaemon | None, host_files: HostFiles | None = None
    ) -> None:
        self._file = file
        self._daemon = daemon
        self._host_files = host_files
        self._last: dict[str, Any] | None = None
        self._connections = 0

    def read(self) -> Endpoint:
        """Return the endpoint in the launch's file; on rank 0 start a daemon if none is alive.

        Raises:
            EndpointPending: the daemon is starting.
            EndpointMissing: the file is not written yet, or rank 0 has other directories.
            EmbeddedDaemonFailed: the daemon ended at once.
        """
        document = self._file.read()
        if document is None and self._host_files is not None:
            document = self._host_files.read()
        if document is not None and self._is_usable(document):
            try:
                return replace(endpoint_in(document), launch_file=self._file.path.name)
            except ValueError:
                pass  # treated as missing
        if self._daemon is None:
            raise EndpointMissing(self._missing())
        self._daemon.ensure()
        raise EndpointPending(f"the daemon is starting, see {self._daemon.log_path}")

    def prepare(self) -> None:
        """On rank 0 start the daemon now: a script may end before the sender's thread starts it."""
        if self._daemon is None:
            return
        try:
            self.read()
        except (EndpointPending, EmbeddedDaemonFailed):
            return  # the sender gets the same error, and reports it to the user
        self._connections = 0

    def _missing(self) -> str:
        return (
            f"the daemon of rank 0 has published nothing for this launch, neither in {self._file.directory} "
            f"(this rank's outdir or working directory) nor in {self._host_files} (of this host). If rank 0 "
            "has another outdir or working directory, give all ranks the same outdir=…, on a filesystem that "
            "they share, or start the script with `tracker-daemon run`"
        )

    def _is_usable(self, document: dict[str, Any]) -> bool:
        if self._daemon is None:
            return not _is_dead(document)
        if self._daemon.is_process(document.get("pid")):
            return True
        if _is_dead(document) and not self._daemon.has_joined(document):
            return False
        self._connections = self._connections + 1 if document == self._last else 1
        self._last = document
        if self._connections > CONNECTIONS_BEFORE_RESTART:
            self._connections = 0
            return False
        return True

    def __str__(self) -> str:
        return str(self._file.path)


def embedded_endpoint(
    environ: Mapping[str, str], outdir: Path, info: RankInfo, launch_key: str
) -> EmbeddedEndpoint:
    """Return the endpoint of the launch's own daemon, for a process without a configured endpoint.

    Raises:
        EndpointError: on rank 0, if the daemon's packages are not installed here, or ``outdir`` cannot be
            written.
    """
    # A process uses one daemon for all its runs, even if its script gives them different launch keys.
    first = first_process(environ, info)
    key = launch_key if first is None else process_key(first)
    file = LaunchFile(outdir / STATE_DIRECTORY, key)
    if info.rank != 0:
        return EmbeddedEndpoint(file, None, HostFiles(environ, key))
    demand_daemon()
    demand_directory(file.directory)
    daemon = EmbeddedDaemon.of(file.path, key, several_hosts=not _on_one_host(environ, info))
    return EmbeddedEndpoint(file, daemon)


def _on_one_host(environ: Mapping[str, str], info: RankInfo) -> bool:
    if info.world_size is None:
        return False
    sizes = {environ.get(name, "") for name in LOCAL_SIZE_VARIABLES}
    return info.world_size == 1 or str(info.world_size) in sizes


def _is_dead(document: dict[str, Any]) -> bool:
    """Return True if the daemon's process has ended for certain; from another host always False."""
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

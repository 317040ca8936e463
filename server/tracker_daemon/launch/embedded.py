"""The daemon that a launch's rank 0 starts for itself (``serve --embedded``, by exec).

Its settings are those of any daemon, environment and file included; only where nothing is said does it
differ: state and output lie in the run's directory, and it ends by itself. It publishes the *launch
file*, by which the ranks of that launch find it.

One state directory has one daemon. Where one holds it already (of another script in the same
directory, or of this one's run before, not ended yet) its address is published for our launch too,
and there is nothing else to do: runs of different launches do not mix. Where that one cannot be
reached by our ranks, we serve from a directory of our own below it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import structlog

from tracker_daemon import daemon
from tracker_daemon.endpoints.control import DaemonClient
from tracker_daemon.endpoints.endpoint_file import ENDPOINT_FILE_NAME, EndpointInfo
from tracker_daemon.errors import EndpointError, StateDirectoryHeld
from tracker_daemon.journal.lock import foreign_holder
from tracker_daemon.settings.definitions import Settings
from tracker_daemon.settings.listen_address import is_loopback
from tracker_protocol import limits

JOIN_PATIENCE_S = 10.0
"""How long a daemon that holds the state directory may start or end before ours goes elsewhere."""
JOIN_RETRY_S = 0.2
STATUS_TIMEOUT_S = 2.0
LAUNCH_FILES = "launch-*.json"

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EmbeddedLaunch:
    """For whom the daemon is: ``file`` is the launch's endpoint file, in its run's ``.tracker``."""

    file: Path
    key: str
    several_hosts: bool

    def defaults(self) -> Mapping[str, Any]:
        """What settings are where the user says nothing."""
        return {
            "state_dir": self.file.parent,
            "outdir": self.file.parent.parent,
            "listen": "0.0.0.0:0" if self.several_hosts else "127.0.0.1:0",
            "idle_timeout_s": limits.EMBEDDED_IDLE_TIMEOUT_S,
            "orphan_timeout_s": limits.EMBEDDED_ORPHAN_TIMEOUT_S,
        }

    def publish(self, info: EndpointInfo) -> None:
        """Tell the launch's ranks where the daemon is."""
        msgspec.structs.replace(info, launch_key=self.key).write_atomically(self.file)


def serve(settings: Settings, launch: EmbeddedLaunch) -> int:
    """Serve ``launch`` until nobody needs it, or see that a running daemon does; the exit status.

    Raises:
        As :func:`tracker_daemon.daemon.serve`.
    """
    deadline = time.monotonic() + JOIN_PATIENCE_S
    while True:
        elsewhere = foreign_holder(settings.state_directory) is not None
        if not elsewhere:
            try:
                return _serve(settings, launch)
            except StateDirectoryHeld as held:
                log.info("the state directory has a daemon", reason=str(held))
        if _join(settings, launch):
            return 0
        if elsewhere or time.monotonic() >= deadline:
            own = settings.state_directory / launch.file.stem
            return _serve(settings.model_copy(update={"state_dir": own}), launch)
        time.sleep(JOIN_RETRY_S)


def _serve(settings: Settings, launch: EmbeddedLaunch) -> int:
    try:
        return daemon.serve(settings, on_ready=launch.publish)
    finally:
        _remove_files_of_the_dead(launch.file.parent)


def _join(settings: Settings, launch: EmbeddedLaunch) -> bool:
    """Publish for our launch the daemon that holds the state directory, if it answers."""
    try:
        info = EndpointInfo.read(settings.state_directory / ENDPOINT_FILE_NAME)
        if launch.several_hosts and all(map(is_loopback, info.endpoints)):
            return False
        DaemonClient(info).status(STATUS_TIMEOUT_S)
    except EndpointError:
        return False  # it is starting, or ending, or out of reach
    launch.publish(info)
    log.info("joined the daemon that runs here", pid=info.pid, host=info.host)
    return True


def _remove_files_of_the_dead(directory: Path) -> None:
    """Remove the launch files that lead to this process, or to one of this host that is no more."""
    for path in directory.glob(LAUNCH_FILES):
        try:
            info = EndpointInfo.read(path)
        except EndpointError:
            continue
        if info.host == socket.gethostname() and (info.pid == os.getpid() or not _exists(info.pid)):
            path.unlink(missing_ok=True)


def _exists(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True

"""The daemon that a launch's rank 0 starts for itself (``serve --embedded``, by exec).

It has the settings of any daemon, from environment and file; only its defaults differ. State and output are
in the run's directory, and it ends by itself. It publishes the *launch file*, by which the ranks of that
launch find it: in the run's directory, and in the user's runtime directory for ranks of this host whose
directories differ.

One state directory has one daemon. Another daemon may hold it already: that of another script in the same
directory, or of this script's previous run. Then that daemon's address is published for our launch too, and
nothing else is needed, since runs of different launches do not mix. If our ranks cannot reach that
daemon, this one serves from a directory of its own below it.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
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
from tracker_protocol.run_files import LAUNCH_FILES
from tracker_protocol.runtime_directory import is_private, make_runtime_directory, runtime_directories

JOIN_PATIENCE_S = 10.0
"""The longest wait for a daemon that holds the state directory and is starting or ending, in seconds."""
JOIN_RETRY_S = 0.2
STATUS_TIMEOUT_S = 2.0

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EmbeddedLaunch:
    """The launch that the daemon serves; ``file`` is its endpoint file, in the run's ``.tracker``."""

    file: Path
    key: str
    several_hosts: bool

    def defaults(self) -> Mapping[str, Any]:
        """The defaults of an embedded daemon, where they differ from those of any daemon."""
        return {
            "state_dir": self.file.parent,
            "outdir": self.file.parent.parent,
            "listen": "0.0.0.0:0" if self.several_hosts else "127.0.0.1:0",
            "idle_timeout_s": limits.EMBEDDED_IDLE_TIMEOUT_S,
            "orphan_timeout_s": limits.EMBEDDED_ORPHAN_TIMEOUT_S,
        }

    def serves(self, launch_file: str) -> bool:
        """Return True if the endpoint file of that name is this launch's, or of one that has joined it."""
        if launch_file == self.file.name:
            return True
        if "/" in launch_file or not fnmatchcase(launch_file, LAUNCH_FILES):
            return False
        try:
            return EndpointInfo.read(self.file.parent / launch_file).pid == os.getpid()
        except EndpointError:
            return False

    def publish(self, info: EndpointInfo) -> None:
        """Write the launch file, by which the launch's ranks find the daemon, in both of its places."""
        ours = msgspec.structs.replace(info, launch_key=self.key)
        ours.write_atomically(self.file)
        directory = make_runtime_directory(os.environ)
        if directory is None:
            return
        try:
            ours.write_atomically(directory / self.file.name)
        except EndpointError as error:
            log.warning("ranks with another outdir cannot find this daemon", reason=str(error))


def serve(settings: Settings, launch: EmbeddedLaunch) -> int:
    """Serve ``launch`` until nobody needs it, or let a running daemon serve it; return the exit status.

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
        return daemon.serve(
            settings,
            on_ready=launch.publish,
            abandoned_timeout_s=limits.EMBEDDED_ABANDONED_TIMEOUT_S,
            layout=settings.launch_layout,
            serves_launch=launch.serves,
        )
    finally:
        for directory in (launch.file.parent, *filter(is_private, runtime_directories(os.environ))):
            _remove_files_of_the_dead(directory)


def _join(settings: Settings, launch: EmbeddedLaunch) -> bool:
    """Publish for our launch the daemon that holds the state directory, if it answers."""
    try:
        info = EndpointInfo.read(settings.state_directory / ENDPOINT_FILE_NAME)
        if launch.several_hosts and all(map(is_loopback, info.endpoints)):
            return False
        DaemonClient(info).status(STATUS_TIMEOUT_S)
    except EndpointError:
        return False  # the daemon is starting, ending or unreachable
    launch.publish(info)
    log.info("joined the daemon that runs here", pid=info.pid, host=info.host)
    return True


def _remove_files_of_the_dead(directory: Path) -> None:
    """Remove launch files that name this process, or an ended process of this host."""
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

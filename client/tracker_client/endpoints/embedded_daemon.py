"""Rank 0's daemon, as a child process that outlives the script.

The daemon is started by exec in its own session. So neither Ctrl-C ends it, nor a launcher that kills the
process groups of its ranks: it still records the other ranks, and delivers to backends. It ends by itself
once no rank needs it. Its output is written to ``daemon.log`` beside the launch's endpoint file.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

from tracker_client.errors import EmbeddedDaemonFailed, EndpointError
from tracker_protocol import limits
from tracker_protocol.extras import DAEMON_PACKAGES

LOG_FILE_NAME = "daemon.log"
LOG_TAIL_BYTES = 4 * 1024

logger = logging.getLogger("tracker_client")


class _Outliving(subprocess.Popen[bytes]):
    """A child process that runs on after this one ends; ``Popen`` would warn of that."""

    def __del__(self) -> None:
        pass


class EmbeddedDaemon:
    """Starts the daemon of one launch, and observes its process. Safe from several threads.

    ``path`` is the launch's endpoint file, which the daemon writes.
    """

    _known: dict[Path, EmbeddedDaemon] = {}  # noqa: RUF012 - meant to be shared
    _known_lock = threading.Lock()

    def __init__(self, path: Path, launch_key: str, *, several_hosts: bool) -> None:
        self.log_path = path.parent / LOG_FILE_NAME
        self._path = path
        self._launch_key = launch_key
        self._several_hosts = several_hosts
        self._lock = threading.Lock()
        self._process: _Outliving | None = None
        self._log_start = 0
        self._joined: int | None = None
        self._served = False

    @classmethod
    def of(cls, path: Path, launch_key: str, *, several_hosts: bool) -> EmbeddedDaemon:
        """Return the daemon for ``path``, which all trackers of this process share."""
        with cls._known_lock:
            if path not in cls._known:
                cls._known[path] = cls(path, launch_key, several_hosts=several_hosts)
            return cls._known[path]

    @classmethod
    def forget_all(cls) -> None:
        """Forget, in a forked child, the daemons that are child processes of the parent."""
        cls._known = {}
        cls._known_lock = threading.Lock()

    def ensure(self) -> None:
        """Start the daemon, unless it runs or is starting.

        Raises:
            EmbeddedDaemonFailed: the daemon ended with an error, or cannot be started. The next call tries
                again.
        """
        with self._lock:
            if self._process is not None:
                code = self._process.poll()
                if code is None:
                    return
                self._process = None
                if code:
                    self._report_end(code)
            self._start()

    def is_process(self, pid: object) -> bool:
        """Return True if ``pid`` is the daemon that this process has started, and that daemon runs."""
        process = self._process
        runs = process is not None and process.pid == pid and process.poll() is None
        self._served = self._served or runs
        return runs

    def has_joined(self, document: dict[str, Any]) -> bool:
        """Return True if the child process has ended because the daemon of ``document`` is alive.

        The pid in ``document`` may be one of another host, where this process cannot check it.
        """
        with self._lock:
            if self._process is not None and self._process.poll() == 0:
                self._process = None
                pid = document.get("pid")
                self._joined = pid if isinstance(pid, int) else None
        return self._joined is not None and self._joined == document.get("pid")

    def _report_end(self, code: int) -> None:
        if not self._served:
            raise EmbeddedDaemonFailed(
                f"the daemon that this rank started has ended: {self._last_log_line(code)}; "
                f"its log is {self.log_path}"
            )
        # Acknowledged data is in the daemon's journal; the rest is still in this process.
        logger.warning(
            "the daemon has ended (exit code %d, see %s) and is started again", code, self.log_path
        )

    def _start(self) -> None:
        self._joined = None
        self._served = False
        try:
            make_directory(self._path.parent)
            _rotate(self.log_path)
            with self.log_path.open("ab") as log:
                self._log_start = log.tell()
                self._process = _Outliving(
                    self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                    cwd=_place_to_start(self._path.parent),
                )  # fmt: skip
        except OSError as error:
            raise EmbeddedDaemonFailed(
                f"no daemon can be started: {error.strerror}: {error.filename}; choose another outdir, or "
                "start `tracker-daemon serve --endpoint-file FILE` and set TRACKER_ENDPOINT_FILE"
            ) from None

    def _command(self) -> list[str]:
        # -P (since 3.11): modules in the working directory, which is the script's, shadow no others.
        safe = ["-P"] if sys.version_info >= (3, 11) else []
        # Names of files are UTF-8 for the daemon, whatever the script's locale is.
        command = [sys.executable, *safe, "-X", "utf8", "-m", "tracker_daemon", "serve"]
        command += [f"--embedded={self._path}", f"--launch-key={self._launch_key}"]
        return [*command, "--several-hosts"] if self._several_hosts else command

    def _last_log_line(self, code: int) -> str:
        try:
            with self.log_path.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, end - LOG_TAIL_BYTES))
                lines = log.read().decode("utf-8", "replace").split("\n")
        except OSError:
            lines = []
        filled = [line.strip() for line in lines if line.strip()]
        return filled[-1].removeprefix("error: ") if filled else f"exit status {code}"


os.register_at_fork(after_in_child=EmbeddedDaemon.forget_all)


def demand_directory(directory: Path) -> None:
    """Make the directory of the daemon's state, and check that it can be written.

    Raises:
        EndpointError: it cannot.
    """
    try:
        make_directory(directory)
        reason = (
            "" if os.access(directory, os.W_OK | os.X_OK) else "no permission, or a read-only file system"
        )
    except OSError as error:
        reason = error.strerror or str(error)
    if reason:
        raise EndpointError(
            f"no daemon can be started in {directory}: {reason}; choose another directory with outdir or "
            "TRACKER_OUTDIR, or name a running daemon with endpoint or TRACKER_ENDPOINT_FILE"
        )


def make_directory(directory: Path) -> None:
    """Make the directory of the daemon's state, for this user alone, and its parents."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    directory.mkdir(mode=0o700, exist_ok=True)


def _place_to_start(directory: Path) -> Path | None:
    """Return the daemon's working directory: None for this process's own, unless that has been deleted."""
    try:
        Path.cwd()
    except OSError:
        return directory
    return None


def demand_daemon() -> None:
    """Check that a daemon can be started here, without importing its packages.

    Raises:
        EndpointError: it cannot; the message names the missing packages and the extra to install.
    """
    needed = {"tracker_daemon", *DAEMON_PACKAGES}
    if sys.version_info >= (3, 11):
        needed -= {"tomli"}
    missing = sorted(name for name in needed if importlib.util.find_spec(name) is None)
    if missing or not sys.executable:
        lacks = f"{', '.join(missing)} not installed" if missing else "no Python interpreter to start it with"
        raise EndpointError(
            f"no daemon is configured, and this process cannot start its own ({lacks}): "
            "pip install tracker-daemon[daemon], or start the script with `tracker-daemon run -- CMD…`, "
            "or pass endpoint=FILE, or set TRACKER_ENDPOINT_FILE"
        )


def _rotate(path: Path) -> None:
    """Rename a log above EMBEDDED_LOG_MAX_BYTES, and so drop the log that was renamed before."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > limits.EMBEDDED_LOG_MAX_BYTES:
            path.replace(path.with_suffix(".log.1"))

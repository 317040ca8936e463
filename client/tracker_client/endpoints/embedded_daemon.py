"""Rank 0's daemon, as a child process that outlives the script.

Started by exec in a session of its own, so that neither Ctrl-C nor a launcher that kills its ranks'
process groups ends it: it still has the other ranks to record, and backends to deliver to. It ends by
itself once nobody needs it. What it prints goes to ``daemon.log`` beside the launch's endpoint file.
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
    """A child that is still to run when we end, which ``Popen`` would warn of."""

    def __del__(self) -> None:
        pass


class EmbeddedDaemon:
    """Starts the daemon of one launch, and knows how it fares. Safe from several threads.

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
        """The one of this process for ``path``: all its trackers share it."""
        with cls._known_lock:
            if path not in cls._known:
                cls._known[path] = cls(path, launch_key, several_hosts=several_hosts)
            return cls._known[path]

    def ensure(self) -> None:
        """Start the daemon unless it runs, or is just starting.

        Raises:
            EmbeddedDaemonFailed: it had been started and ended badly, or cannot be started. The next
                call tries again.
        """
        with self._lock:
            if self._process is not None:
                code = self._process.poll()
                if code is None:
                    return
                self._process = None
                if code:
                    self._tell_of_end(code)
            self._start()

    def is_process(self, pid: object) -> bool:
        """Whether ``pid`` is the daemon that this process has started, and it runs."""
        process = self._process
        runs = process is not None and process.pid == pid and process.poll() is None
        self._served = self._served or runs
        return runs

    def has_joined(self, document: dict[str, Any]) -> bool:
        """Whether our child has found the daemon of ``document`` alive, though its pid tells nothing here."""
        with self._lock:
            if self._process is not None and self._process.poll() == 0:
                self._process = None
                pid = document.get("pid")
                self._joined = pid if isinstance(pid, int) else None
        return self._joined is not None and self._joined == document.get("pid")

    def _tell_of_end(self, code: int) -> None:
        if not self._served:
            raise EmbeddedDaemonFailed(
                f"the daemon that this rank started has ended: {self._last_words(code)}; "
                f"its log is {self.log_path}"
            )
        # What it acknowledged is in its journal; the rest is still here.
        logger.warning(
            "the daemon has ended (exit code %d, see %s) and is started again", code, self.log_path
        )

    def _start(self) -> None:
        self._joined = None
        self._served = False
        try:
            self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            _shorten(self.log_path)
            with self.log_path.open("ab") as log:
                self._log_start = log.tell()
                self._process = _Outliving(
                    self._command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
                )
        except OSError as error:
            raise EmbeddedDaemonFailed(
                f"no daemon can be started: {error.strerror}: {error.filename}; choose another outdir, or "
                "start `tracker-daemon serve --endpoint-file FILE` and set TRACKER_ENDPOINT_FILE"
            ) from None

    def _command(self) -> list[str]:
        # -P (since 3.11) keeps the working directory, a training script's, from shadowing modules.
        safe = ["-P"] if sys.version_info >= (3, 11) else []
        command = [sys.executable, *safe, "-m", "tracker_daemon", "serve"]
        command += [f"--embedded={self._path}", f"--launch-key={self._launch_key}"]
        return [*command, "--several-hosts"] if self._several_hosts else command

    def _last_words(self, code: int) -> str:
        try:
            with self.log_path.open("rb") as log:
                end = log.seek(0, os.SEEK_END)
                log.seek(max(self._log_start, end - LOG_TAIL_BYTES))
                lines = log.read().decode("utf-8", "replace").split("\n")
        except OSError:
            lines = []
        said = [line.strip() for line in lines if line.strip()]
        return said[-1].removeprefix("error: ") if said else f"exit status {code}"


def demand_daemon() -> None:
    """See that a daemon can be started here, without importing any of it.

    Raises:
        EndpointError: names what to install.
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


def _shorten(path: Path) -> None:
    """Keep one earlier log beside the current one, and neither above its bound by more than one daemon's."""
    with contextlib.suppress(FileNotFoundError):
        if path.stat().st_size > limits.EMBEDDED_LOG_MAX_BYTES:
            path.replace(path.with_suffix(".log.1"))

"""A daemon: a real process with its state directory."""

from __future__ import annotations

import csv
import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pytest

from tests.support.forking.forked import ForkedProcess, forks_with
from tests.support.waiting import PATIENCE_S, wait_until

DRAIN_TIMEOUT_S = 120
"""For daemons that deliver what is left: a slow machine's first MLflow database alone can take a minute."""


@dataclass
class Daemon:
    """One state directory and the daemon processes that serve it, one after another.

    They deliver to CSV unless ``flags`` name other backends, and record a run in ``outdir`` itself, as the
    daemon of ``run --outdir`` does.
    """

    can_fork: ClassVar[bool] = True
    """Whether a daemon may begin as a fork, and not as a new interpreter."""

    home: Path
    flags: tuple[str, ...] = ()
    layout: str = "base"
    process: subprocess.Popen[bytes] | ForkedProcess | None = None

    @property
    def outdir(self) -> Path:
        return self.home / "out"

    @property
    def state_dir(self) -> Path:
        return self.home / "state"

    @property
    def endpoint_file(self) -> Path:
        return self.home / "endpoint.json"

    @property
    def endpoint(self) -> dict[str, object]:
        return json.loads(self.endpoint_file.read_text())

    def begin_mlflow_store(self, database: Path) -> None:
        """Copy an empty database to where MLflow's is, to spare its making."""
        self.outdir.mkdir(parents=True)
        shutil.copy(database, self.outdir / "mlflow.db")

    def start(self, *, by_exec: bool = False) -> Daemon:
        """Start a process; ``by_exec`` if the test looks at its command line or environment in ``/proc``."""
        backends = () if "--backends" in self.flags else ("--backends", "csv")
        arguments = [
            "serve", "--state-dir", str(self.state_dir), "--outdir", str(self.outdir),
            "--layout", self.layout, "--endpoint-file", str(self.endpoint_file),
            "--drain-timeout-s", str(DRAIN_TIMEOUT_S), *backends, *self.flags,
        ]  # fmt: skip
        with (self.home / "daemon.log").open("ab") as log:
            if self.can_fork and not by_exec and forks_with(os.environ):
                self.process = ForkedProcess(arguments, log.fileno())
            else:
                command = [sys.executable, "-m", "tracker_daemon", *arguments]
                self.process = subprocess.Popen(command, stdout=log, stderr=log)
        wait_until(self._ready, "the daemon to be ready")
        return self

    def _ready(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            pytest.fail(f"the daemon did not start:\n{self.log()}")
        return self.endpoint_file.exists() and self.endpoint["pid"] == self.process.pid

    def log(self) -> str:
        return (self.home / "daemon.log").read_text()

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """SIGTERM: drain and end."""
        assert self.process is not None
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(DRAIN_TIMEOUT_S + PATIENCE_S)

    def status(self) -> dict[str, object]:
        # Here, since this file also serves the client's tests where the daemon's packages are not installed.
        from tracker_daemon.endpoints.control import DaemonClient
        from tracker_daemon.endpoints.endpoint_file import EndpointInfo

        return json.loads(DaemonClient(EndpointInfo.read(self.endpoint_file)).status())

    def last_status(self) -> dict[str, object]:
        return json.loads((self.state_dir / "last-status.json").read_text())

    def directory_of(self, run_id: object) -> Path:
        """The directory that the run has claimed."""
        manifests = self.outdir.rglob(".tracker-run")
        headers = {path.parent: json.loads(path.read_text().partition("\n")[0]) for path in manifests}
        (found,) = (path for path, header in headers.items() if header["run_id"] == run_id)
        return found

    def rows(self, directory: Path | None = None) -> list[dict[str, str]]:
        """What metrics.csv holds."""
        with ((directory or self.outdir) / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))

"""Real daemons and real ranks, for the tests that need them."""

from __future__ import annotations

import csv
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import hypothesis
import pytest

PATIENCE_S = 60.0
DRAIN_TIMEOUT_S = 120
"""For daemons that deliver what is left: a slow machine's first MLflow database alone can take a minute."""

# Hundreds of interpreters are started here; without a cache each would compile the product anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The client that tests read stores with has a thread for its telemetry, which changes the environment while
# others read it.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# How long an example takes says more of the machine than of the product.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="how often the fault tests kill the daemon")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: real processes wait much for each other, and for disks and timers."""
    return len(os.sched_getaffinity(0)) + 1


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often to kill: few in the suite, many in the long form."""
    return int(request.config.getoption("--kills"))


def wait_until(condition: Callable[[], object], what: str, patience_s: float = PATIENCE_S) -> None:
    """Return once ``condition()`` is true; fail, naming ``what``, when it does not become so."""
    deadline, pause_s = time.monotonic() + patience_s, 0.01
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"waited {patience_s:.0f} s in vain: {what}")
        time.sleep(pause_s)
        pause_s = min(1.5 * pause_s, 0.1)  # asking costs what is waited for its time on the processor


@dataclass
class Daemon:
    """One state directory and the daemon processes that serve it, one after another.

    They deliver to CSV unless ``flags`` name other backends.
    """

    home: Path
    flags: tuple[str, ...] = ()
    process: subprocess.Popen[bytes] | None = None

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

    def start(self) -> Daemon:
        backends = () if "--backends" in self.flags else ("--backends", "csv")
        command = [
            sys.executable, "-m", "tracker_daemon", "serve", "--state-dir", str(self.state_dir),
            "--outdir", str(self.outdir), "--endpoint-file", str(self.endpoint_file),
            "--drain-timeout-s", str(DRAIN_TIMEOUT_S), *backends, *self.flags,
        ]  # fmt: skip
        with (self.home / "daemon.log").open("ab") as log:
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

    def rows(self, directory: Path | None = None) -> list[dict[str, str]]:
        """What metrics.csv holds."""
        with ((directory or self.outdir) / "metrics.csv").open(newline="") as file:
            return list(csv.DictReader(file))


@dataclass
class Ranks:
    """Rank processes that run a script against a daemon."""

    daemon: Daemon
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    def start(
        self, script: str, ranks: range | list[int], world_size: int, **environ: str
    ) -> list[subprocess.Popen[str]]:
        """Start ``script`` as these ranks of ``world_size``, all of one launch."""
        started = []
        for rank in ranks:
            variables = {
                **os.environ,
                "TRACKER_ENDPOINT_FILE": str(self.daemon.endpoint_file),
                "TRACKER_LAUNCH_ID": "the-launch",
                "RANK": str(rank),
                "LOCAL_RANK": str(rank),
                "WORLD_SIZE": str(world_size),
                **environ,
            }
            process = subprocess.Popen(
                [sys.executable, "-c", script], env=variables, text=True,
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            )  # fmt: skip
            started.append(process)
        self.processes.extend(started)
        return started

    def run(self, script: str, world_size: int, **environ: str) -> list[str]:
        """Run all ranks of ``script`` to their end; what each printed."""
        return [finish(process) for process in self.start(script, range(world_size), world_size, **environ)]


def finish(process: subprocess.Popen[str]) -> str:
    """What a rank printed, once it has ended well."""
    out, err = process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 0, err
    return out


# Test modules are no package (see pytest's importlib mode), so what they share hangs here.
pytest.wait_until = wait_until
pytest.finish = finish
pytest.patience_s = PATIENCE_S
pytest.ranks_of = Ranks
pytest.daemon_at = Daemon


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """``make_daemon(*flags)``: a daemon that is ready; ended with the test."""
    made: list[Daemon] = []

    def make(*flags: str) -> Daemon:
        home = tmp_path / f"daemon{len(made)}"
        home.mkdir()
        made.append(Daemon(home, flags))
        return made[-1].start()

    yield make
    for daemon in made:
        if daemon.process is not None and daemon.process.poll() is None:
            daemon.kill()


@pytest.fixture
def daemon(make_daemon: Callable[..., Daemon]) -> Daemon:
    """A daemon with its default settings, but delivering to CSV."""
    return make_daemon("--backends", "csv")


@pytest.fixture
def ranks(daemon: Daemon) -> Iterator[Ranks]:
    """Rank processes for ``daemon``; those that still run end with the test."""
    ranks = Ranks(daemon)
    yield ranks
    for process in ranks.processes:
        if process.poll() is None:
            process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout, process.stderr):
            if pipe is not None:
                pipe.close()

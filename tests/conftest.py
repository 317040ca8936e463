"""Real daemons and real ranks, for the tests that need them."""

from __future__ import annotations

import gc
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import hypothesis
import pytest

from tests.support.daemon import Daemon
from tests.support.ranks import Ranks

# Hundreds of interpreters are started here; without a cache each would compile the product anew.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# The client that tests read stores with has a thread for its telemetry, which changes the environment while
# others read it.
os.environ["MLFLOW_DISABLE_TELEMETRY"] = "true"

# How long an example takes says more of the machine than of the product.
hypothesis.settings.register_profile("no deadline", deadline=None)
hypothesis.settings.load_profile("no deadline")


# The packages that tests import make many objects, which stay; to search them for garbage takes long.
gc.set_threshold(50_000)


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--kills", type=int, default=3, help="how often the fault tests kill the daemon")
    parser.addoption(
        "--exec-daemons",
        action="store_true",
        help="start a new interpreter for each daemon (slow), and never fork",
    )


def pytest_configure(config: pytest.Config) -> None:
    Daemon.can_fork = not config.getoption("--exec-daemons")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: real processes wait much for each other, and for disks and timers."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collection_finish() -> None:
    """Spare the collector what was imported and collected: it stays, and is large."""
    gc.collect()
    gc.freeze()


@pytest.fixture
def kills(request: pytest.FixtureRequest) -> int:
    """How often to kill: few in the suite, many in the long form."""
    return int(request.config.getoption("--kills"))


@pytest.fixture
def make_daemon(tmp_path: Path) -> Iterator[Callable[..., Daemon]]:
    """``make_daemon(*flags)``: a daemon that is ready; ended with the test.

    With ``mlflow_store`` its MLflow backend finds a copy of that database; ``by_exec``: see ``Daemon.start``.
    """
    made: list[Daemon] = []

    def make(*flags: str, mlflow_store: Path | None = None, by_exec: bool = False) -> Daemon:
        home = tmp_path / f"daemon{len(made)}"
        home.mkdir()
        made.append(Daemon(home, flags))
        if mlflow_store is not None:
            made[-1].begin_mlflow_store(mlflow_store)
        return made[-1].start(by_exec=by_exec)

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

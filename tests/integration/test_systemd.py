"""The systemd units: what they withhold, and a real boot in which the daemon is a service."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sqlite3
import subprocess
from collections import Counter
from pathlib import Path

import pytest

from tests.support.hosts.machine import Machine

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
SYSTEM_UNITS = [UNITS / "tracker-daemon.service", UNITS / "tracker-daemon@.service"]
EXPOSURE_MAX_TENTHS = 20

needs_analyze = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")
needs_nspawn = pytest.mark.skipif(
    shutil.which("systemd-nspawn") is None or os.getuid() != 0, reason="systemd-nspawn as root is needed"
)


@needs_analyze
@pytest.mark.parametrize("unit", SYSTEM_UNITS, ids=lambda unit: unit.name)
def test_a_unit_exposes_little(unit: Path) -> None:
    command = [
        "systemd-analyze",
        "security",
        "--offline=true",
        f"--threshold={EXPOSURE_MAX_TENTHS}",
        str(unit),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@needs_analyze
@pytest.mark.parametrize("unit", [*SYSTEM_UNITS, UNITS / "user" / "tracker-daemon.service"], ids=str)
def test_a_unit_says_nothing_that_systemd_does_not_know(unit: Path, tmp_path: Path) -> None:
    # Here the command is not where the unit expects it; all else is checked as it stands.
    text = unit.read_text()
    for place in ("/opt/tracker-daemon/bin/tracker-daemon", "%h/.local/bin/tracker-daemon"):
        text = text.replace(place, "/bin/true")
    copy = tmp_path / unit.name
    copy.write_text(text)
    scope = "--user" if unit.parent.name == "user" else "--system"
    variables = {**os.environ, "XDG_RUNTIME_DIR": str(tmp_path)}
    command = ["systemd-analyze", scope, "--man=no", "verify", str(copy)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=variables)
    assert done.returncode == 0, done.stderr
    assert unit.name not in done.stderr


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory):
    """What was seen in a machine where the service was started, used, hung and stopped; and the machine."""
    machine = Machine(tmp_path_factory.mktemp("machine"))
    machine.install(UNITS / "tracker-daemon@.service")
    machine.write("etc/tracker-daemon/ada.token", "from-the-administrator\n").chmod(0o600)
    machine.write(
        "etc/systemd/system/tracker-daemon@ada.service.d/site.conf",
        "[Service]\nLoadCredential=MLFLOW_TRACKING_TOKEN:/etc/tracker-daemon/ada.token\n"
        # In a container with version 1 of control groups the manager does not see that a group has emptied,
        # and waits as long as a stop may take.
        "WatchdogSec=5\nRestartSec=100ms\nTimeoutStopSec=10\n",
    )
    output = machine.boot("tests.support.hosts.systemd_drive", 400)
    assert output, (machine.results / "errors").read_text()
    return json.loads(output), machine.root / "var/lib/tracker-daemon/ada"


@needs_nspawn
def test_starting_the_service_returns_once_clients_can_connect(seen) -> None:
    saw, _ = seen
    assert saw["verified"] == [0, ""]
    assert saw["started"] == [0, ""]
    assert saw["endpoint_file_at_start"]
    assert saw["half"] == "half"


@needs_nspawn
def test_a_daemon_that_hangs_is_restarted_by_the_watchdog_and_nothing_is_lost(seen) -> None:
    saw, state = seen
    assert (saw["restarts"], saw["watchdog"]) == ("1", True)
    assert (saw["state"], saw["training"]) == ("finished", 0)
    (metrics,) = (state / "runs").rglob("metrics.csv")  # in <project>/<time>-<name>
    with metrics.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert Counter(int(row["step"]) for row in rows) == Counter(range(200))
    with sqlite3.connect(state / "runs" / "mlflow.db") as store:
        points = store.execute("SELECT step, value FROM metrics WHERE key = 'x'").fetchall()
    assert Counter(points) == Counter((step, float(step)) for step in range(200))


@needs_nspawn
def test_a_credential_arrives_at_its_backend_alone(seen) -> None:
    saw, _ = seen
    assert saw["backend_has"] == "from-the-administrator"
    assert saw["daemon_has"] is None


@needs_nspawn
def test_stopping_the_service_delivers_and_ends_well(seen) -> None:
    saw, state = seen
    assert saw["stopped"] == [0, ""]
    assert (saw["result"], saw["status"]) == ("success", "0")
    assert not saw["endpoint_file_at_end"]
    last = json.loads((state / "last-status.json").read_text())
    (run,) = last["runs"]
    assert run["status"] == "FINISHED"
    assert all(backend["pending"] == 0 for backend in run["backends"])

"""Runs as a unit in the machine that a test has booted, and does there what an administrator and a user do.

Prints one JSON object: what was seen at each point.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

SERVICE = "tracker-daemon@ada.service"
ENDPOINT_FILE = Path("/run/tracker-daemon/ada/endpoint.json")
PATIENCE_S = 120.0
TRAINING = """
import time
from tracker_client import setup_tracker
tracker = setup_tracker("units", backends="csv,mlflow")
def log(steps):
    for step in steps:
        tracker.log({"x": step}, step=step)
log(range(100))
while tracker.status().buffered_points or tracker.status().unacknowledged_points:
    time.sleep(0.02)
print("half", flush=True)
input()
log(range(100, 200))
tracker.finish(wait="delivered", timeout=100)
print(tracker.status().state, flush=True)
"""


def shell(*command: str) -> tuple[int, str]:
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE_S, check=False)
    return done.returncode, done.stdout + done.stderr


def shown(name: str) -> str:
    return shell("systemctl", "show", SERVICE, f"--property={name}", "--value")[1].strip()


def await_(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            sys.exit(f"waited in vain for {what}: {shell('journalctl', '--no-pager')[1]}")
        time.sleep(0.05)


def environment_of(pid: str) -> dict[str, str]:
    entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    return dict(entry.decode().split("=", 1) for entry in entries if b"=" in entry)


def backend_process() -> str | None:
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if b"tracker_daemon.backends.child.main" in (process / "cmdline").read_bytes():
                return process.name
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def main() -> None:
    seen: dict[str, object] = {"verified": shell("systemd-analyze", "verify", SERVICE)}
    seen["started"] = shell("systemctl", "start", SERVICE)
    seen["endpoint_file_at_start"] = ENDPOINT_FILE.exists()
    variables = {**os.environ, "TRACKER_ENDPOINT_FILE": str(ENDPOINT_FILE), "HOME": "/tmp"}
    training = subprocess.Popen(
        [sys.executable, "-c", TRAINING], user="ada", group="ada", cwd="/tmp", env=variables,
        text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert training.stdin is not None
    assert training.stdout is not None
    seen["half"] = training.stdout.readline().strip()
    await_(backend_process, "the backend's process")
    first = shown("MainPID")
    backend = backend_process()
    assert backend is not None
    seen["backend_has"] = environment_of(backend).get("MLFLOW_TRACKING_TOKEN")
    seen["daemon_has"] = environment_of(first).get("MLFLOW_TRACKING_TOKEN")
    await_(lambda: "1 running of 1 runs" in shown("StatusText"), "the status line")
    os.kill(int(first), signal.SIGSTOP)
    await_(lambda: shown("MainPID") not in (first, "0") and shown("ActiveState") == "active", "a restart")
    seen["restarts"], seen["watchdog"] = (
        shown("NRestarts"),
        "Watchdog timeout" in shell("journalctl", "-b")[1],
    )
    training.stdin.write("\n")
    training.stdin.flush()
    seen["state"] = training.stdout.readline().strip()
    seen["training"] = training.wait(PATIENCE_S)
    seen["stopped"] = shell("systemctl", "stop", SERVICE)
    seen["result"], seen["status"] = shown("Result"), shown("ExecMainStatus")
    seen["endpoint_file_at_end"] = ENDPOINT_FILE.exists()
    print(json.dumps(seen))


main()

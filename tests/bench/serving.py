"""A daemon for a benchmark: a real process with a temporary home."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

_READY_S = 30.0


@contextmanager
def daemon(*flags: str) -> Iterator[tuple[Path, dict[str, object]]]:
    """A running daemon: its home, and what its endpoint file says."""
    with TemporaryDirectory(prefix="tracker-bench-") as name:
        home = Path(name)
        command = [
            sys.executable, "-m", "tracker_daemon", "serve", "--state-dir", str(home / "state"),
            "--outdir", str(home / "out"), "--endpoint-file", str(home / "endpoint.json"), *flags,
        ]  # fmt: skip
        with (home / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + _READY_S
            while not (home / "endpoint.json").exists():
                if process.poll() is not None or time.monotonic() > deadline:
                    raise SystemExit((home / "log").read_text())
                time.sleep(0.05)
            yield home, json.loads((home / "endpoint.json").read_text())
        finally:
            process.terminate()
            process.wait()

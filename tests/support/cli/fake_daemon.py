"""Stands in for a daemon: writes the endpoint file, obeys SIGTERM, and misbehaves on request.

Usage: fake_daemon.py STATE_DIR ENDPOINT_FILE [BEHAVIOUR…]. Appends what happens to STATE_DIR/events.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

state_dir, endpoint_file = Path(sys.argv[1]), Path(sys.argv[2])
behaviours = set(sys.argv[3:])
asked_to_end = threading.Event()


def note(text: str) -> None:
    with (state_dir / "events").open("a") as events:
        events.write(text + "\n")


def on_sigterm(*_: object) -> None:
    note("sigterm")
    asked_to_end.set()


def die_with_starter() -> None:
    while os.read(0, 1024):
        pass
    note("stdin closed")
    asked_to_end.set()


signal.signal(signal.SIGTERM, on_sigterm)
note(f"started {os.getpid()}")
print("the fake daemon speaks", file=sys.stderr, flush=True)
if "fail" in behaviours:
    sys.exit("error: the state directory is held by another daemon")
threading.Thread(target=die_with_starter, daemon=True).start()
if "never-ready" not in behaviours:
    info = {
        "endpoint": "127.0.0.1:1",
        "endpoints": ["127.0.0.1:1"],
        "token": "secret",
        "tls_root_pem": None,
        "pid": os.getpid(),
        "host": socket.gethostname(),
        "protocol_version": 1,
    }
    temporary = endpoint_file.with_suffix(".new")
    temporary.write_text(json.dumps(info))
    temporary.replace(endpoint_file)
asked_to_end.wait()
if "hang" in behaviours:
    signal.signal(signal.SIGINT, lambda *_: note("sigint"))
    while True:
        time.sleep(60)
run = {
    "run_id": "r1",
    "name": "first",
    "project": "p",
    "status": "FINISHED",
    "metrics": 2,
    "records": {"emitted": 10},
}
run["backends"] = [{"name": "csv", "state": "healthy", "delivered": 10, "location": "/out/metrics.csv"}]
(state_dir / "last-status.json").write_text(json.dumps({"daemon": {"pid": os.getpid()}, "runs": [run]}))
note("ended")

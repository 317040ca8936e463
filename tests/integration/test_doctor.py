"""The doctor, and a rank's own look, on places that are well and on such as are not."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.servers.wandb_stub import WandbStub

PATIENCE_S = 200.0
PROXIES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


def environment(**more: str) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name.lower() not in PROXIES}
    return {**{name: value for name, value in kept.items() if not name.startswith("TRACKER_")}, **more}


def doctor(directory: Path, *arguments: object, **environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tracker_daemon", "doctor", *map(str, arguments)]
    return subprocess.run(
        command, cwd=directory, env=environment(HOME=str(directory), **environ),
        capture_output=True, text=True, timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def problems(done: subprocess.CompletedProcess[str]) -> list[str]:
    lines = done.stdout.splitlines()
    return [line.removeprefix("problem").strip() for line in lines if line.startswith("problem")]


def test_a_place_that_is_well_has_no_problem_and_is_left_as_it_was(tmp_path: Path) -> None:
    done = doctor(tmp_path, "--state-dir", "state", "--outdir", "out", "--backends", "csv")
    assert done.returncode == 0, done.stdout + done.stderr
    assert problems(done) == []
    for subject in ("state directory", "clock", "output directory", "addresses", "backend csv"):
        assert f" {subject}: " in done.stdout
    assert list(tmp_path.iterdir()) == []


def test_each_problem_is_named_with_what_to_do(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        done = doctor(
            tmp_path, "--state-dir", "state", "--listen", address, "--backends", "csv,nonesuch",
            "--endpoint-file", "nowhere/endpoint.json", http_proxy="http://proxy.example:3128",
        )  # fmt: skip
    assert done.returncode == 1
    endpoint_file, addresses, backend = problems(done)
    assert endpoint_file.startswith("endpoint file:")
    assert addresses.startswith("addresses:")
    assert address in addresses
    assert "nonesuch" in backend
    assert "note     proxies: http_proxy is set" in done.stdout
    assert done.stdout.count("→") >= 3
    assert "3 to be fixed" in done.stdout


def test_a_daemon_that_runs_is_asked_at_each_of_its_addresses(make_daemon, tmp_path: Path) -> None:
    daemon = make_daemon("--listen", "127.0.0.1:0", "--listen", f"unix:{tmp_path}/socket")
    done = doctor(
        tmp_path,
        "--endpoint-file",
        daemon.endpoint_file,
        "--state-dir",
        daemon.state_dir,
        "--backends",
        "csv",
    )
    for address in daemon.endpoint["endpoints"]:
        assert f"daemon: {address} answers" in done.stdout
    assert f"in use by the daemon with pid {daemon.process.pid}" in done.stdout


def test_a_daemon_to_forward_to_is_asked_in_place_of_backends(make_daemon, tmp_path: Path) -> None:
    root = make_daemon()
    place = ("--state-dir", "state", "--outdir", "out", "--backends", "nonesuch")
    done = doctor(tmp_path, *place, "--upstream", root.endpoint_file)
    assert done.returncode == 0, done.stdout
    assert f"daemon to forward to: {root.endpoint['endpoint']} answers" in done.stdout
    root.kill()
    (gone,) = problems(doctor(tmp_path, *place, "--upstream", root.endpoint_file))
    assert gone.startswith("daemon to forward to: no daemon answers at")


def test_credentials_are_tried_where_they_will_be_used_and_never_shown(tmp_path: Path) -> None:
    pytest.importorskip("wandb")
    key = "k" * 40
    with WandbStub() as stub:
        taken = doctor(
            tmp_path,
            "--state-dir",
            "state",
            "--backends",
            "wandb",
            WANDB_BASE_URL=stub.url,
            WANDB_API_KEY=key,
        )
    assert taken.returncode == 0, taken.stdout + taken.stderr
    assert f"backend wandb: {stub.url} answers, and takes the key" in taken.stdout
    missing = doctor(tmp_path, "--state-dir", "state", "--backends", "wandb")
    assert missing.returncode == 1
    assert "W&B has no API key" in problems(missing)[0]
    assert key not in taken.stdout + taken.stderr


def test_an_mlflow_server_that_is_not_there_is_a_problem(tmp_path: Path) -> None:
    pytest.importorskip("mlflow")
    done = doctor(
        tmp_path, "--state-dir", "state", "--backends", "mlflow", MLFLOW_TRACKING_URI="http://127.0.0.1:9"
    )
    assert done.returncode == 1
    assert "http://127.0.0.1:9" in problems(done)[0]


# ---- from a rank ---------------------------------------------------------------------------------


def look(**environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tracker_client"], env=environment(**environ), capture_output=True, text=True,
        timeout=PATIENCE_S, check=False,
    )  # fmt: skip


def test_a_rank_sees_who_it_is_and_that_its_daemon_answers(daemon) -> None:
    done = look(RANK="3", LOCAL_RANK="1", WORLD_SIZE="8", TRACKER_ENDPOINT_FILE=str(daemon.endpoint_file))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "rank 3 of 8" in done.stdout
    assert f"{daemon.endpoint['endpoint']} answers" in done.stdout
    assert daemon.status()["runs"] == []


def test_a_rank_that_cannot_reach_its_daemon_says_why(daemon, tmp_path: Path) -> None:
    stolen = tmp_path / "stolen.json"
    stolen.write_text(json.dumps({**daemon.endpoint, "token": "guessed"}))
    for file, reason in ((stolen, "token"), (tmp_path / "nowhere.json", "not there")):
        done = look(TRACKER_ENDPOINT_FILE=str(file))
        assert done.returncode == 1
        assert "problem" in done.stdout
        assert reason in done.stdout


def test_an_unknown_rank_is_a_problem() -> None:
    done = look(WORLD_SIZE="8", PMI_SIZE="8")
    assert done.returncode == 1
    assert "problem" in done.stderr

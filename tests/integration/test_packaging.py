"""The built wheel: what it carries, what it needs, and that the thin client works without the rest."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import textwrap
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
START_DEADLINE_S = 60.0

THIN_CLIENT = """
    import sys
    from tracker_client import setup_tracker

    endpoint_file = sys.argv[1]
    with setup_tracker(project_name="thin", config={"lr": 0.1}, endpoint=endpoint_file) as tracker:
        for step in range(3):
            tracker.log({"loss": 1 / (step + 1), "step_time": 0.5}, step=step)
        tracker.finish(wait="delivered", timeout=60)
    heavy = {"torch", "numpy", "wandb", "mlflow"} & {name.partition(".")[0] for name in sys.modules}
    assert not heavy, heavy
"""


def inherited_environment() -> dict[str, str]:
    """This process's environment less what would lead a fresh environment back to this tree or to a run."""
    return {
        name: value
        for name, value in os.environ.items()
        if name != "PYTHONPATH" and not name.startswith(("TRACKER_", "EZPZ_", "PMI_", "SLURM_", "OMPI_"))
    }


def check(*command: str | Path) -> str:
    done = subprocess.run(
        command, env=inherited_environment(), capture_output=True, text=True, check=False, cwd="/"
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
    return done.stdout


def pip(environment: Path, *arguments: str | Path) -> str:
    """Run our own pip for the environment with these commands: it takes seconds to give it one."""
    return check(sys.executable, "-m", "pip", "--python", environment / "python", *arguments)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built from the source distribution, so that both are shown to work."""
    out = tmp_path_factory.mktemp("dist")
    check(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, ROOT)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def thin(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of commands of a fresh environment with the wheel, without extras."""
    venv = tmp_path_factory.mktemp("thin") / "venv"
    check(sys.executable, "-m", "venv", "--without-pip", venv)
    pip(venv / "bin", "install", "--quiet", wheel)
    return venv / "bin"


@pytest.fixture
def daemon(tmp_path: Path) -> Iterator[Path]:
    """The endpoint file of a daemon that this environment runs, and stops by SIGTERM."""
    endpoint_file = tmp_path / "endpoint.json"
    options = [f"--{name}={tmp_path / name}" for name in ("state-dir", "outdir")]
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "tracker_daemon",
            "serve",
            "--endpoint-file",
            endpoint_file,
            "--backends=csv",
            *options,
        ],
        cwd=tmp_path,
    )
    deadline = time.monotonic() + START_DEADLINE_S
    while not endpoint_file.exists():
        assert process.poll() is None, f"the daemon ended with status {process.returncode}"
        assert time.monotonic() < deadline, "the daemon did not become ready"
        time.sleep(0.02)
    yield endpoint_file
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 0


def test_the_wheel_carries_the_three_packages_their_types_and_the_protocol(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    packages = ("tracker_protocol", "tracker_client", "tracker_daemon")
    assert {f"{package}/py.typed" for package in packages} <= names
    assert "tracker_protocol/v1/tracker.proto" in names
    assert "tracker_protocol/v1/tracker_pb2.pyi" in names
    top_level = {name.partition("/")[0] for name in names}
    assert top_level == {*packages, next(name for name in top_level if name.endswith(".dist-info"))}
    assert any(name.endswith("licenses/LICENSE") for name in names)


def test_without_extras_only_grpcio_and_protobuf_are_needed(thin: Path) -> None:
    listed = json.loads(pip(thin, "list", "--format=json"))
    installed = {entry["name"].lower().replace("_", "-") for entry in listed}
    assert installed <= {"tracker-daemon", "grpcio", "protobuf", "typing-extensions"}
    assert {"tracker-daemon", "grpcio", "protobuf"} <= installed
    pip(thin, "check")


def test_the_command_without_the_extra_names_it_in_one_line(thin: Path) -> None:
    done = subprocess.run(
        [thin / "tracker-daemon", "serve"],
        env=inherited_environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install 'tracker-daemon[daemon]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_the_thin_client_streams_to_a_daemon_in_another_environment(
    thin: Path, daemon: Path, tmp_path: Path
) -> None:
    script = tmp_path / "train.py"
    script.write_text(textwrap.dedent(THIN_CLIENT))
    check(thin / "python", "-I", script, daemon)
    (metrics,) = (tmp_path / "outdir").rglob("metrics.csv")
    header, *rows = [line.split(",") for line in metrics.read_text().splitlines()]
    recorded = [dict(zip(header, row, strict=True)) for row in rows]
    assert [int(row["step"]) for row in recorded] == [0, 1, 2]
    assert [float(row["loss"]) for row in recorded] == [1.0, 1 / 2, 1 / 3]
    assert json.loads((metrics.parent / "config.json").read_text())["lr"] == 0.1

"""The example, really trained: what was recorded equals numpy over what the ranks wrote themselves."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "deploy" / "examples"
RANKS = 4
EPOCHS = 3
EPS = np.finfo(np.float64).eps

LAUNCHERS = {
    "torchrun": [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(RANKS)],
    "mpiexec": ["mpiexec", "-n", str(RANKS), sys.executable],
}

Cells = Mapping[tuple[int, str], float]
"""Values by step and column."""


def launch_environment() -> dict[str, str]:
    """What a launcher needs; Open MPI's mpiexec, where it is the one installed, also runs as root."""
    as_root = {"OMPI_ALLOW_RUN_AS_ROOT": "1", "OMPI_ALLOW_RUN_AS_ROOT_CONFIRM": "1"}
    oversubscribe = {"OMPI_MCA_rmaps_base_oversubscribe": "1"}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
    return {**inherited, **as_root, **oversubscribe, "OMP_NUM_THREADS": "1"}


def train(launcher: str, directory: Path) -> Path:
    """Train under ``tracker-daemon run`` and return the directory with the run's files."""
    command = [
        sys.executable,
        "-m",
        "tracker_daemon",
        "run",
        "--outdir",
        directory / "run",
        "--backends",
        "csv",
        "--",
    ]
    script = [EXAMPLES / "digits.py", "--epochs", str(EPOCHS), "--write-own", directory / "own"]
    done = subprocess.run(
        [*command, *LAUNCHERS[launcher], *script],
        cwd=directory, env=launch_environment(), capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (metrics,) = (directory / "run").rglob("metrics.csv")
    return metrics.parent


def recorded_cells(path: Path) -> Cells:
    """Every value of the CSV; a cell that is there twice fails."""
    cells: dict[tuple[int, str], float] = {}
    with path.open(newline="") as file:
        for row in csv.DictReader(file):
            for column, text in row.items():
                if column == "step" or text == "":
                    continue
                assert (int(row["step"]), column) not in cells, (
                    f"{column} at step {row['step']} is recorded twice"
                )
                cells[int(row["step"]), column] = float(text)
    return cells


def own_values(directory: Path) -> dict[tuple[int, str], np.ndarray]:
    """By step and metric, what each rank that logged it wrote, in rank order."""
    values: dict[tuple[int, str], list[float]] = {}
    for rank in range(RANKS):
        for line in (directory / f"rank-{rank}.jsonl").read_text().splitlines():
            step, metrics = json.loads(line)
            for name, value in metrics.items():
                values.setdefault((step, name), []).append(value)
    return {key: np.array(row, dtype=np.float64) for key, row in values.items()}


def assert_aggregates(recorded: Cells, step: int, name: str, x: np.ndarray) -> None:
    largest, std = float(np.abs(x).max()), float(x.std())
    assert recorded[step, f"{name}/mean"] == pytest.approx(x.mean(), abs=1e-12 * largest, rel=0)
    assert recorded[step, f"{name}/std"] == pytest.approx(std, abs=1e-12 * std + 8 * EPS * largest, rel=0)
    assert recorded[step, f"{name}/min"] == x.min()
    assert recorded[step, f"{name}/max"] == x.max()


def require(launcher: str) -> None:
    for package in (
        "torch",
        "sklearn",
    ):  # in the ranks, and not in this process, where an import takes seconds
        if find_spec(package) is None:
            pytest.skip(f"{package} is not installed")
    if launcher == "mpiexec" and shutil.which("mpiexec") is None:
        pytest.skip("mpiexec is not installed")


@pytest.mark.parametrize("launcher", ["torchrun", pytest.param("mpiexec", marks=pytest.mark.long)])
def test_the_csv_equals_numpy_over_what_the_ranks_wrote(launcher: str, tmp_path: Path) -> None:
    require(launcher)
    run = train(launcher, tmp_path)
    recorded, own = recorded_cells(run / "metrics.csv"), own_values(tmp_path / "own")
    expected = set()
    for (step, name), x in own.items():
        assert recorded[step, name] == x[0], f"{name} at step {step} is not rank 0's"
        expected.add((step, name))
        if len(x) > 1:
            assert len(x) == RANKS
            assert_aggregates(recorded, step, name, x)
            expected.update((step, f"{name}/{suffix}") for suffix in ("mean", "std", "min", "max"))
    assert set(recorded) == expected
    assert sum(len(x) for x in own.values()) > RANKS * EPOCHS * 5
    config = json.loads((run / "config.json").read_text())
    assert config["epochs"] == EPOCHS


def test_one_import_and_one_call_are_all_that_tracking_adds() -> None:
    """What a script written for the seed changes: the line that imports ``setup_tracker``."""
    source = (EXAMPLES / "digits.py").read_text()
    lines = [
        line.strip() for line in source.splitlines() if "setup_tracker" in line or "tracker_client" in line
    ]
    assert len(lines) == 2
    assert lines[0] == "from tracker_client import setup_tracker"
    assert lines[1].startswith("tracker = setup_tracker(")


def test_the_smallest_script_records_every_step(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "tracker_daemon",
        "run",
        "--outdir",
        tmp_path / "run",
        "--backends",
        "csv",
        "--",
    ]
    done = subprocess.run(
        [*command, sys.executable, EXAMPLES / "minimal.py"],
        cwd=tmp_path, env=launch_environment(), capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (metrics,) = (tmp_path / "run").rglob("metrics.csv")
    recorded = recorded_cells(metrics)
    position, expected = 4.0, {}
    for step in range(100):
        gradient = 2 * position
        position -= 0.1 * gradient
        expected.update({(step, "loss"): position**2, (step, "gradient"): gradient})
    assert recorded == expected

"""The benchmark does what its documentation says, on a hundredth of the work."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

BENCH = Path(__file__).parents[1] / "bench"


@pytest.mark.long
def test_the_benchmark_prints_a_figure_for_each_question():
    command = [sys.executable, str(BENCH), "--scale", "0.01"]
    out = subprocess.run(command, check=True, capture_output=True, text=True, timeout=240).stdout
    assert re.search(r"ratio log / append, tight: [0-9.]+", out)
    assert re.search(r"log +paced +median +[0-9]+ ns", out)
    for backends in ("none", "csv"):
        assert re.search(rf"backends {backends}: median [0-9.]+ million points/s", out)
    assert re.search(r"all at the root: [0-9.]+ ms.*through nodes: [0-9.]+ ms.*ratio [0-9.]+", out)
    assert re.search(r"first tenth [0-9.]+ s, last tenth [0-9.]+ s, ratio [0-9.]+", out)

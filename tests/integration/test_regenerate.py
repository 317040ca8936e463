"""The protocol's code is generated anew, which needs the old compiler in an environment of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "proto" / "tracker_protocol" / "v1"


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="the pinned compiler has no wheel for Python 3.13")
def test_regenerating_gives_the_committed_code(tmp_path: Path) -> None:
    environment = {"PYTHON": sys.executable}
    made = subprocess.run(
        [ROOT / ".ci" / "regenerate", tmp_path],
        env=_inherited(environment),
        capture_output=True,
        text=True,
        check=False,
    )
    assert made.returncode == 0, made.stderr
    for name in ("tracker_pb2.py", "tracker_pb2.pyi"):
        fresh = tmp_path / "tracker_protocol" / "v1" / name
        assert fresh.read_text() == (GENERATED / name).read_text(), f"{name} is stale: run .ci/regenerate"


def _inherited(additions: dict[str, str]) -> dict[str, str]:
    return {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **additions}

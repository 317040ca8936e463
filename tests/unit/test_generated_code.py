"""The committed protocol code is what the .proto gives, and no newer than the oldest protobuf allowed."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "proto" / "tracker_protocol" / "v1"


def oldest_protobuf_allowed() -> tuple[int, ...]:
    found = re.search(r'"protobuf>=([\d.]+)', (ROOT / "pyproject.toml").read_text())
    assert found
    return tuple(int(part) for part in found[1].split("."))


def test_generated_code_is_not_newer_than_the_oldest_protobuf_allowed() -> None:
    found = re.search(r"Protobuf Python Version: ([\d.]+)", (GENERATED / "tracker_pb2.py").read_text())
    assert found
    assert tuple(int(part) for part in found[1].split(".")) <= oldest_protobuf_allowed()


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
    import os

    return {**{name: value for name, value in os.environ.items() if name != "PYTHONPATH"}, **additions}

"""The committed protocol code is no newer than the oldest protobuf allowed."""

from __future__ import annotations

import re
from pathlib import Path

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

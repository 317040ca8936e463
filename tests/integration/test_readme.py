"""The README's claims that can be read off the product, and its smallest script."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_until
from tracker_daemon.settings.definitions import Settings

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


@pytest.mark.parametrize("title", ["Run it", "Test it"])
def test_each_command_is_the_first_sh_block_of_its_section(title):
    assert re.search(r"\n```(\w+)\n", section(title)).group(1) == "sh"


def test_every_setting_is_in_the_table_and_every_row_of_it_is_a_setting():
    rows = re.findall(r"^\| (`[^|]+) \|", section("Settings").split("### The client")[0], re.MULTILINE)
    documented = {name for row in rows for name in re.findall(r"`(\w+)`", row)}
    assert documented == set(Settings.model_fields) - {"config"}


def test_the_smallest_script_is_the_example_and_runs(tmp_path):
    script = re.search(r"```python\n(.*?)```", section("The smallest script"), re.DOTALL).group(1)
    assert script.strip() in (ROOT / "deploy/examples/minimal.py").read_text()
    (tmp_path / "smallest.py").write_text(script)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
    environ |= {"TRACKER_BACKENDS": "csv", "TRACKER_IDLE_TIMEOUT_S": "0.5"}
    ran = subprocess.run(
        [sys.executable, "smallest.py"], cwd=tmp_path, env=environ,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    wait_until((tmp_path / ".tracker/last-status.json").exists, "its daemon to have delivered and ended")
    assert len((tmp_path / "metrics.csv").read_text().splitlines()) == 101


def test_the_checks_begin_with_the_readmes_test_command():
    assert 'readme_block "Test it"' in (ROOT / ".ci/run").read_text()

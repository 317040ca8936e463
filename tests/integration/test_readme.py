"""The README's claims that can be read off the product, and the scripts that README and pages show, run."""

from __future__ import annotations

import csv
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.waiting import wait_until

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text()


def section(title):
    return README.split(f"\n## {title}\n")[1].split("\n## ")[0]


def script_of(text):
    """The first Python block."""
    return re.search(r"```python\n(.*?)```", text, re.DOTALL).group(1)


def run_script(script, directory, **variables):
    """Run ``script`` in ``directory`` with a daemon of its own, until that has delivered; what it printed."""
    (directory / "script.py").write_text(script)
    environ = {name: value for name, value in os.environ.items() if not name.startswith("TRACKER_")}
    environ |= {"TRACKER_IDLE_TIMEOUT_S": "0.5", **variables}
    ran = subprocess.run(
        [sys.executable, "script.py"], cwd=directory, env=environ,
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    last_status = directory / "tracker-runs/.tracker/last-status.json"
    wait_until(last_status.exists, "its daemon to have delivered and ended")
    return ran.stdout


@pytest.mark.parametrize("title", ["Run it", "Test it"])
def test_each_command_is_the_first_sh_block_of_its_section(title):
    assert re.search(r"\n```(\w+)\n", section(title)).group(1) == "sh"


def test_the_smallest_script_is_the_example_and_runs(tmp_path):
    script = script_of(section("The smallest script"))
    assert script.strip() in (ROOT / "deploy/examples/minimal.py").read_text()
    assert script in (ROOT / "docs/getting-started.md").read_text()
    run_script(script, tmp_path, TRACKER_BACKENDS="csv")
    assert len((tmp_path / "tracker-runs/latest/metrics.csv").read_text().splitlines()) == 101


def test_the_excerpt_is_consistent_in_itself_and_the_same_on_the_first_page():
    excerpt = re.search(r"```text\n(step,.*?)```", section("What it looks like"), re.DOTALL).group(1)
    assert excerpt in (ROOT / "docs/getting-started.md").read_text()
    for row in csv.DictReader(excerpt.splitlines()):
        own, mean, least, most, std = (
            float(row[name]) for name in ("loss", "loss/mean", "loss/min", "loss/max", "loss/std")
        )
        assert least <= own <= most
        assert least <= mean <= most
        assert 0 < std <= (most - least) / 2


def test_the_backend_that_the_page_shows_gets_the_records(tmp_path):
    script = script_of((ROOT / "docs/backends.md").read_text().split("## A class of your own")[1])
    printed = run_script(script, tmp_path)
    assert printed.splitlines() == [
        "> config {'lr': 0.1}",
        "> 0 {'loss': 1.0}",
        "> 1 {'loss': 0.5}",
        "> 2 {'loss': 0.3333333333333333}",
        "> finished",
    ]


def test_the_sweep_that_the_page_shows_makes_a_run_of_each_trial(tmp_path):
    script = script_of((ROOT / "docs/guides/one-process.md").read_text())
    run_script(script, tmp_path)
    tables = list((tmp_path / "tracker-runs").glob("2*/metrics.csv"))
    assert [len(table.read_text().splitlines()) for table in tables] == [11, 11]


def test_the_checks_begin_with_the_readmes_test_command():
    assert 'readme_block "Test it"' in (ROOT / ".ci/run").read_text()

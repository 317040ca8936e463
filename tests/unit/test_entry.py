"""The command without the daemon's packages."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tracker_daemon.entry import EXTRA_PACKAGES

PYPROJECT = Path(__file__).parents[2] / "pyproject.toml"


def run_without(module: str) -> subprocess.CompletedProcess[str]:
    """Run ``tracker-daemon --help`` in a process that cannot import ``module``."""
    program = f"""
import sys
sys.modules[{module!r}] = None
from tracker_daemon.entry import main
sys.argv = ["tracker-daemon", "--help"]
main()
"""
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)


def test_a_missing_daemon_package_names_the_extra_in_one_line() -> None:
    done = run_without("typer")
    assert done.returncode == 1
    assert "typer" in done.stderr
    assert "pip install 'tracker-daemon[daemon]'" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_missing_module_of_the_product_is_no_missing_extra() -> None:
    done = run_without("tracker_protocol")
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr
    assert "pip install" not in done.stderr


def test_every_package_of_the_extra_is_known() -> None:
    extra = re.search(r"^daemon = \[(.*?)^\]", PYPROJECT.read_text(), re.MULTILINE | re.DOTALL)
    assert extra
    named = {
        name.replace("-", "_").removeprefix("python_")
        for name in re.findall(r'^\s*"([\w-]+)', extra[1], re.MULTILINE)
    }
    assert named
    assert named <= EXTRA_PACKAGES

"""A machine of its own, made by systemd-nspawn from a small private root: to boot, or to run a script in.

The root has this machine's /usr, read-only, and nothing else of it: no network, its own users, its own
/etc, /var, /tmp. It runs a module of this package, after a boot as a unit; when the module ends, so does the
machine with all its processes. Results come back through the directory /results.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

MASKED = (
    "apt-daily-upgrade.timer", "apt-daily.timer", "console-getty.service", "dbus.service", "dbus.socket",
    "getty@.service", "networking.service", "systemd-logind.service", "systemd-networkd.service",
    "systemd-resolved.service", "systemd-sysctl.service", "systemd-timesyncd.service",
    "systemd-udev-trigger.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
    "systemd-udevd.service",
)  # fmt: skip
DIRECTORIES = ("usr", "etc/systemd/system", "var", "tmp", "run", "root", "proc", "sys", "dev", "results")
DRIVER = """[Unit]
Description=What the test does
[Service]
Type=oneshot
ExecStart=/opt/python/bin/{python} -m {module}
ExecStopPost=/bin/systemctl --no-block poweroff
Environment=LD_LIBRARY_PATH=/opt/python/lib PYTHONPATH={path}
StandardOutput=append:/results/output
StandardError=append:/results/errors
TimeoutStartSec=300
"""
WRAPPER = """#!/bin/sh
export PYTHONPATH={path} LD_LIBRARY_PATH=/opt/python/lib
exec /opt/python/bin/{python} -m tracker_daemon "$@"
"""


class Machine:
    """A private root below ``home`` with tracker-daemon installed in /opt, as the units expect it."""

    def __init__(self, home: Path) -> None:
        self.root = home / "root"
        self.results = home / "results"
        self.python = Path(os.path.realpath(sys.executable)).name
        own = [Path(entry) for entry in sys.path if entry and Path(entry).is_dir()]
        self._libraries = [path for path in own if not path.is_relative_to(sys.base_prefix)]
        self.python_path = ":".join(f"/opt/lib/{number}" for number in range(len(self._libraries)))
        self._make_root()

    def _make_root(self) -> None:
        for name in (
            "usr",
            "etc/systemd/system",
            "var",
            "tmp",
            "run",
            "root",
            "proc",
            "sys",
            "dev",
            "results",
        ):
            (self.root / name).mkdir(parents=True)
        self.results.mkdir()
        for name in ("bin", "sbin", "lib", "lib64"):
            (self.root / name).symlink_to(f"usr/{name}")
        self.write("etc/os-release", "ID=test\n")
        # Commands in /usr/bin that are links to there.
        shutil.copytree("/etc/alternatives", self.root / "etc/alternatives", symlinks=True)
        self.write("etc/machine-id", "")
        self.write("etc/passwd", "root:x:0:0::/root:/bin/sh\nada:x:1815:1815::/home/ada:/bin/sh\n")
        self.write("etc/group", "root:x:0:\nada:x:1815:\n")
        home = self.root / "home/ada"
        home.mkdir(parents=True)
        os.chown(home, 1815, 1815)
        for unit in MASKED:
            (self.root / "etc/systemd/system" / unit).symlink_to("/dev/null")
        wrapper = self.write("opt/tracker-daemon/bin/tracker-daemon", "")
        wrapper.write_text(WRAPPER.format(path=self.python_path, python=self.python))
        wrapper.chmod(0o755)

    def write(self, path: str, text: str) -> Path:
        """A file in the machine."""
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        return file

    def install(self, unit: Path) -> None:
        """A unit file, as its user would copy it."""
        shutil.copy(unit, self.root / "etc/systemd/system")

    def boot(self, module: str, timeout_s: float) -> str:
        """Boot, run ``module`` there, and return what it printed once the machine is off again.

        What it wrote to stderr is in ``results/errors``.
        """
        unit = DRIVER.format(python=self.python, path=self.python_path, module=module)
        self.write("etc/systemd/system/drive.service", unit)
        self._nspawn(["--boot", "--", "--unit=drive.service"], timeout_s)
        output = self.results / "output"
        return output.read_text() if output.exists() else ""

    def run(self, module: str, timeout_s: float) -> str:
        """Run ``module`` as root, without a boot, and return what it printed."""
        variables = [f"--setenv=PYTHONPATH={self.python_path}", "--setenv=LD_LIBRARY_PATH=/opt/python/lib"]
        command = ["--as-pid2", *variables, "--", f"/opt/python/bin/{self.python}", "-m", module]
        return self._nspawn(command, timeout_s)

    def _nspawn(self, what: list[str], timeout_s: float) -> str:
        binds = [
            "--bind-ro=/usr", f"--bind-ro={sys.base_prefix}:/opt/python", f"--bind={self.results}:/results"
        ]  # fmt: skip
        binds += [f"--bind-ro={path}:/opt/lib/{number}" for number, path in enumerate(self._libraries)]
        nspawn = [
            "systemd-nspawn", "--quiet", f"--directory={self.root}", *binds, "--private-network",
            "--register=no", "--keep-unit", "--console=pipe", *what,
        ]  # fmt: skip
        # nspawn wants a memory file system for what it shares with its machines; this process' mounts stay.
        share = 'mkdir -p /run/systemd && mount -t tmpfs tmpfs /run/systemd && exec "$@"'
        done = subprocess.run(
            ["unshare", "--mount", "--propagation", "private", "sh", "-c", share, "sh", *nspawn],
            capture_output=True, text=True, timeout=timeout_s, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

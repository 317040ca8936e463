"""The command's entry point: names the missing extra if the daemon's packages are not installed.

The distribution installs the command for everyone, the thin client's users too, whose
environments hold none of what the daemon imports.
"""

from __future__ import annotations

import sys

from tracker_protocol.extras import DAEMON_PACKAGES

EXTRA_PACKAGES = DAEMON_PACKAGES


def main() -> None:
    """Run the command, or exit with status 1 and one line that names the extra to install."""
    try:
        from tracker_daemon.cli import main as run  # noqa: PLC0415  importing it is what may fail
        from tracker_daemon.cli.ourselves import run_in_utf8  # noqa: PLC0415

        run_in_utf8()
        run()
    except ModuleNotFoundError as error:
        missing = (error.name or "").partition(".")[0]
        if missing not in EXTRA_PACKAGES:
            raise
        sys.exit(
            f"tracker-daemon: the daemon needs the package {missing}, which is not installed; "
            "run: pip install 'tracker-daemon[daemon]'"
        )

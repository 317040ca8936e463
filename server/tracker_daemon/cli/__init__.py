"""The command ``tracker-daemon``.

Each module holds commands of one kind: ``daemon`` (serve, run), ``control_commands`` (status, wait,
stop) and ``configuration`` (check-config). What they do is done elsewhere; here are their options,
their output and their exit status.
"""

from __future__ import annotations

from tracker_daemon.cli.application import main

__all__ = ["main"]

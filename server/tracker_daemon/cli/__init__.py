"""The command ``tracker-daemon``: options, output and exit status of its commands.

* ``application``: which module has which command, and where errors become one line and an exit status.
* ``serving``: serve. ``running``: run. ``starting``: start. ``syncing``: sync.
* ``observing``: status, wait, stop. ``configuration``: check-config. ``doctoring``: doctor.
* ``recorded_runs``: ls, show, tag, rm. ``recorded_view``: their tables.
* ``options``: every setting as an option. ``ourselves``: our own command line.
* ``process_watch``: waits for the end of a process that is not our child.
"""

from __future__ import annotations

from tracker_daemon.cli.application import main

__all__ = ["main"]

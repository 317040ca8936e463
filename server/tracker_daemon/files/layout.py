"""The layout of an output directory: where in it the directories of runs are. See ``run_directory``.

The settings need no more than this, so that a command that only reads settings imports no more.
"""

from __future__ import annotations

from enum import Enum


class Layout(str, Enum):
    """The places of runs' directories within an output directory."""

    BASE = "base"
    NAME = "name"
    PROJECT = "project"

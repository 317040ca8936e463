"""The version of the installed distribution."""

from __future__ import annotations

from importlib import metadata

try:
    __version__ = metadata.version("tracker-daemon")
except metadata.PackageNotFoundError:  # run from the source tree
    __version__ = "0.2.0"

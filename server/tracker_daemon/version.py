"""The installed version."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

try:
    VERSION = version("tracker-daemon")
except PackageNotFoundError:  # run from a source tree that is not installed
    VERSION = "0.0.0"

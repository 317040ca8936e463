"""Packages that a whole file of tests needs and that take long to import.

Every process of a test run collects every file. A package that a file imported would be imported by all of
them, and only the process that runs the file needs it.
"""

from __future__ import annotations

from types import ModuleType
from typing import Any

import pytest


class OptionalPackage:
    """A package that is imported when a test first uses it; without the package the test is skipped."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._module: ModuleType | None = None

    def require(self) -> ModuleType:
        """Return the package, or skip the test."""
        if self._module is None:
            self._module = pytest.importorskip(self._name)
        return self._module

    def __getattr__(self, attribute: str) -> Any:
        if attribute.startswith("_"):  # pytest asks each object of a file for such names as it collects
            raise AttributeError(attribute)
        return getattr(self.require(), attribute)

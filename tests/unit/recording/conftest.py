"""Fixtures that these tests share with those of other packages."""

from tests.support.ingest.fixtures import rig

__all__ = ["rig"]

"""Fixtures that these tests share with those of other packages."""

from tests.support.ingest.fixtures import door, registry

__all__ = ["door", "registry"]

"""Fixtures that these tests share with those of other packages."""

from tests.support.ingest.fixtures import play_nodes, rig

__all__ = ["play_nodes", "rig"]

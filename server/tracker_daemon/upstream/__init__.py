"""Upstream: a daemon of one node's ranks that forwards to a root, which records and decides."""

"""Ingest: takes the ranks' streams, and has them journalled and folded before it acknowledges."""

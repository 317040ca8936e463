"""Aggregation: a pure fold from journalled events to records. No I/O, and no clock of its own."""

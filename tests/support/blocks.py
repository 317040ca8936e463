"""Blocks of records, written as lists of rows."""

from __future__ import annotations

import numpy as np

from tracker_daemon.aggregation.values.record import RecordBlock, TextCell


def block_of(columns, rows, *, first_step=0, texts=()):
    """A block with one row for each list of ``rows``; None is a cell that is not there."""
    shape = (len(rows), len(columns))
    values = np.array([[0.0 if v is None else v for v in row] for row in rows], np.float64).reshape(shape)
    valid = np.array([[v is not None for v in row] for row in rows], np.bool_).reshape(shape)
    steps = np.arange(first_step, first_step + len(rows), dtype=np.int64)
    zeros = np.zeros(len(rows), np.int64)
    mask = None if valid.all() else valid
    cells = tuple(TextCell(*text) for text in texts)
    return RecordBlock(1, 1, tuple(columns), steps, zeros, values, mask, cells)

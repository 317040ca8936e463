"""The directory of a run's files: ``outdir``, or a subdirectory of it for this run.

A run claims a directory by creating ``.tracker-run`` in it, with its id. Creation with O_EXCL has one winner,
in one daemon and between several. After a crash the run finds its own id there. A run uses ``outdir`` itself
if no other run has claimed it and it holds no ``metrics.csv`` of unknown origin. Otherwise the run uses a
subdirectory named after the run, and claims it in the same way.

An empty marker belongs to another run, which may be about to write its id. If a crash left the marker empty,
the run uses a subdirectory; no file of the run had been written yet.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from pathlib import Path

from tracker_daemon.errors import BackendRefused
from tracker_daemon.files.atomic_file import create_exclusively, sync_directory

MARKER = ".tracker-run"
METRICS_FILE = "metrics.csv"

_NAME_MAX_CHARACTERS = 100
_SUBDIRECTORIES_MAX = 1_000
"""Subdirectories tried for one run; more than one only if other runs have claimed the first."""


def claim_directory(outdir: Path, run_id: str, remembered: str | None) -> str:
    """Claim a directory for the run, and return its path relative to ``outdir``.

    ``remembered`` is the result of an earlier call ("" is ``outdir`` itself). It is returned again unless
    another run has claimed that directory meanwhile.

    Raises:
        OSError: a directory cannot be made or written.
        BackendRefused: other runs have claimed every directory that was tried.
    """
    if remembered is not None and _claim(outdir / remembered, run_id, known=True):
        return remembered
    for subdirectory in _candidates(run_id):
        if _claim(outdir / subdirectory, run_id, known=False):
            return subdirectory
    raise BackendRefused(f"{outdir} is full of other runs' files; choose another outdir for {run_id}")


def claimed_directory(outdir: Path, run_id: str) -> Path | None:
    """Return the directory that the run has claimed below ``outdir``; None if it has not claimed one.

    Raises:
        OSError: a directory cannot be read.
    """
    for subdirectory in _candidates(run_id):
        marker = outdir / subdirectory / MARKER
        if not marker.parent.exists():
            return None
        if marker.exists() and marker.read_bytes() == _owner(run_id):
            return marker.parent
    return None


def _candidates(run_id: str) -> Iterator[str]:
    name = directory_name(run_id)
    yield ""
    yield name
    for number in range(2, _SUBDIRECTORIES_MAX):
        yield f"{name}-{number}"


def directory_name(run_id: str) -> str:
    """Return a directory name for a run id: the id if it is safe; else a safe form with a hash of the id."""
    name = re.sub(r"[^A-Za-z0-9._-]", "_", run_id)[:_NAME_MAX_CHARACTERS].lstrip(".")
    if name and name == run_id:
        return name
    return f"{name}-{hashlib.sha256(run_id.encode(errors='backslashreplace')).hexdigest()[:12]}"


def _claim(directory: Path, run_id: str, *, known: bool) -> bool:
    _make_directory(directory)
    marker = directory / MARKER
    owner = _owner(run_id)
    # Without a marker, a metrics.csv is another program's, unless the run's state knows the directory.
    if not known and not marker.exists() and (directory / METRICS_FILE).exists():
        return False
    return create_exclusively(marker, owner) or marker.read_bytes() == owner


def _owner(run_id: str) -> bytes:
    return run_id.encode(errors="backslashreplace") + b"\n"


def _make_directory(directory: Path) -> None:
    missing = [path for path in (directory, *directory.parents) if not path.exists()]
    directory.mkdir(parents=True, exist_ok=True)
    for path in missing:
        sync_directory(path.parent)

"""Preparation of a database that is used without an MLflow server: its file, and its tables."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from tracker_daemon.backends.mlflow.store_address import StoreAddress, sqlite_uri
from tracker_daemon.errors import BackendRefused, BackendUnavailable


@contextlib.contextmanager
def prepared(address: StoreAddress) -> Iterator[None]:
    """Check that a database can be written, and keep other processes here from creating its tables."""
    if not address.is_sql:
        yield
        return
    if address.file is not None:
        _make_writable(address.file)
    name = hashlib.sha256(address.uri.encode()).hexdigest()[:24]
    path = Path(tempfile.gettempdir(), f"tracker-mlflow-{os.getuid()}-{name}.lock")
    with path.open("a", encoding="utf-8") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _make_writable(file: Path) -> None:
    """Raise at once if the file cannot be written; MLflow itself would retry for minutes."""
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.open("ab").close()
    except (PermissionError, FileExistsError, IsADirectoryError, NotADirectoryError) as error:
        raise BackendRefused(
            f"cannot write {file}: {error.strerror}; let the daemon's user write there, or set another outdir"
        ) from error
    except OSError as error:
        raise BackendUnavailable(f"cannot write {file}: {error.strerror}; delivery tries again") from error


def make_tables(file: Path, open_store: Callable[[str], object]) -> None:
    """Create a new database in one step; ``open_store`` opens the store at a URI, and so creates its tables.

    MLflow creates its tables in dozens of steps. A database that a kill left between two steps can neither be
    used nor repaired by MLflow. So the tables are created in a draft, which is then renamed.
    """
    if file.stat().st_size:
        return
    draft = file.with_name(f".{file.name}.new")
    for leftover in (draft, draft.with_name(f"{draft.name}-journal")):
        leftover.unlink(missing_ok=True)
    open_store(sqlite_uri(draft))
    draft.replace(file)

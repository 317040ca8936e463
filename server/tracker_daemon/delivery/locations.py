"""Shows where a run is recorded, once for each run and backend: in the log, the terminal, and its directory.

The terminal is that of ``run``.
"""

from __future__ import annotations

from collections.abc import Mapping

import structlog

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.files.run_story import tell_backend
from tracker_daemon.logs import print_line

log = structlog.get_logger(__name__)


def log_location(run: RunDescription, backend: str, location: str, handles: Mapping[str, str]) -> None:
    """Log where ``backend`` records ``run``."""
    log.info("a run is recorded", run_id=run.run_id, backend=backend, where=_where(location, handles))


def print_location(run: RunDescription, backend: str, location: str, handles: Mapping[str, str]) -> None:
    """Log where ``backend`` records ``run``, and print it for the user who started the daemon."""
    log_location(run, backend, location, handles)
    print_line(f"tracker-daemon: run {_name(run)}: {backend} → {_where(location, handles)}")


def note_location(run: RunDescription, backend: str, location: str, handles: Mapping[str, str]) -> None:
    """Note where ``backend`` records ``run`` in the run's directory, if it has one."""
    if run.directory is None:
        return
    try:
        tell_backend(run.directory, run.run_id, backend, location, handles)
    except OSError as error:  # the listing of runs lacks it; nothing else does
        log.info("a run's directory cannot tell where a backend is", run_id=run.run_id, reason=str(error))


def _name(run: RunDescription) -> str:
    return "/".join(part for part in (run.project, run.name or run.run_id) if part)


def _where(location: str, handles: Mapping[str, str]) -> str:
    """Return MLflow's names of experiment and run, its URI and the location, as far as they are known."""
    parts = [
        f"{what} {handles[name]}"
        for name, what in (("experiment_name", "experiment"), ("run_name", "run"))
        if handles.get(name)
    ]
    uri = handles.get("tracking_uri", "")
    if uri and not location.startswith(uri):
        parts.append(uri)
    return ", ".join([*parts, location])

"""Checks the state and output directories: permissions, locks, durable commits, free space, clock."""

from __future__ import annotations

import os
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from tracker_daemon.doctor.finding import Finding, good, note, problem
from tracker_daemon.errors import TrackerDaemonError
from tracker_daemon.journal.lock import Owner
from tracker_daemon.journal.rows import RunRow
from tracker_daemon.journal.store import Journal
from tracker_protocol import limits

_MOUNTS = Path("/proc/self/mountinfo")
_SHARED = frozenset(
    {"nfs", "nfs4", "lustre", "gpfs", "beegfs", "ceph", "cifs", "smb3", "9p", "wekafs", "panfs"}
)
_VOLATILE = frozenset({"tmpfs", "ramfs", "overlay"})
_COMMITS = 20
_MIB = 1024 * 1024


def examine_state_directory(directory: Path, *, clock: Callable[[], float] = time.time) -> Iterator[Finding]:
    """Check the journal's directory: ``directory``, or its nearest parent that exists.

    ``clock`` is this host's, in seconds since the epoch.
    """
    subject = "state directory"
    held = _holder(directory)
    if held is not None:
        yield note(subject, f"{directory} is in use by the daemon with pid {held.pid} on {held.host}")
    place = _nearest(directory)
    yield _on_file_system(subject, directory, place)
    try:
        with tempfile.TemporaryDirectory(prefix=".tracker-doctor-", dir=place) as trial:
            yield from _try_journal(subject, Path(trial))
            yield _compare_clocks(Path(trial), clock)
    except OSError as error:
        yield problem(
            subject, f"{place} cannot be written: {error.strerror}", "choose another with --state-dir"
        )
    yield _look_for_room(subject, place)


def examine_output_directory(directory: Path) -> Iterator[Finding]:
    """Check the directory of file backends, the default for scripts that name none."""
    subject = "output directory"
    place = _nearest(directory)
    try:
        with tempfile.NamedTemporaryFile(prefix=".tracker-doctor-", dir=place):
            yield good(subject, f"{directory} can be written")
    except OSError as error:
        yield problem(subject, f"{place} cannot be written: {error.strerror}", "choose another with --outdir")


def file_system_of(path: Path, mounts: str) -> str:
    """Return the type of the file system of ``path``, by the text of a mountinfo file; "" if unknown."""
    best, found = "", ""
    for line in mounts.splitlines():
        fields, _, rest = line.partition(" - ")
        point = fields.split(" ")[4].replace("\\040", " ")
        if len(point) >= len(best) and path.is_relative_to(point):
            best, found = point, rest.split(" ")[0]
    return found


def _holder(directory: Path) -> Owner | None:
    try:
        return Owner.read(directory / "owner.json")
    except OSError:
        return None


def _nearest(directory: Path) -> Path:
    return next(path for path in (directory, *directory.parents) if path.is_dir())


def _on_file_system(subject: str, directory: Path, place: Path) -> Finding:
    try:
        kind = file_system_of(Path(os.path.realpath(place)), _MOUNTS.read_text(encoding="utf-8"))
    except OSError:
        return good(subject, f"{directory}")
    if kind in _VOLATILE:
        advice = "choose a directory on disk with --state-dir, so that undelivered data outlives the machine"
        return note(
            subject, f"{directory} is on {kind}, which is lost with the machine or the container", advice
        )
    shared = ", which other hosts may share" if kind in _SHARED else ""
    return good(subject, f"{directory} is on {kind or 'a file system of unknown type'}{shared}")


def _try_journal(subject: str, trial: Path) -> Iterator[Finding]:
    """Make a journal as the daemon does: the lock, a database, commits with fsync."""
    try:
        journal = Journal.open(trial / "journal", history_bytes=_MIB)
        try:
            seconds = [_commit(journal, number) for number in range(_COMMITS)]
        finally:
            journal.close()
    except TrackerDaemonError as error:
        advice = "choose a directory on another file system with --state-dir: a local disk always works"
        yield problem(subject, f"no journal can be made there: {error}", advice)
        return
    yield good(subject, "locks work, and a journal can be committed")
    median_ms = 1000 * statistics.median(seconds)
    text = (
        f"a commit takes {median_ms:.1f} ms (median of {_COMMITS}; the longest {1000 * max(seconds):.1f} ms)"
    )
    slow = median_ms > 1000 * limits.FLUSH_INTERVAL_MIN_S
    yield (note(subject, text, "a faster disk would shorten it") if slow else good(subject, text))


def _commit(journal: Journal, number: int) -> float:
    begun = time.perf_counter()
    journal.begin()
    journal.insert_run(RunRow(0, f"trial-{number}", "doctor", "doctor", "trial", number, "/", "{}"))
    journal.commit()
    return time.perf_counter() - begun


def _compare_clocks(trial: Path, clock: Callable[[], float]) -> Finding:
    """Compare this host's clock with a file's time, which is the file system's own clock."""
    mark = trial / "mark"
    before = clock()
    mark.touch()
    skew_s = mark.stat().st_mtime - before
    if abs(skew_s) <= limits.CLOCK_SKEW_MAX_S:
        return good("clock", f"within {limits.CLOCK_SKEW_MAX_S:.0f} s of the file system's")
    return note(
        "clock",
        f"{abs(skew_s):.0f} s {'behind' if skew_s > 0 else 'ahead of'} the file system's",
        "have NTP set it: points carry the clock's time",
    )


def _look_for_room(subject: str, place: Path) -> Finding:
    free_mib = shutil.disk_usage(place).free // _MIB
    wanted_mib = 2 * limits.HISTORY_BYTES_MAX // _MIB
    text = f"{free_mib:,} MiB are free"
    if free_mib >= wanted_mib:
        return good(subject, text)
    return note(subject, text, f"{wanted_mib:,} MiB leave room for the journal; or lower --history-bytes")

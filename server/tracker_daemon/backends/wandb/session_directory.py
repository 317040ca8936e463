"""The directories in which the W&B SDK keeps a run: one for each session, that is for each ``wandb.init``.

A directory ``<outdir>/wandb/offline-run-<time>-<id>`` or, online, ``run-<time>-<id>`` holds the SDK's log
of all recorded data (``run-<id>.wandb``) and the SDK's own notes. This backend marks its directories. A
mark holds the run's id, the directory of the session before, and the SDK's process that writes the
directory.

Other daemons may have left directories of the same id. So a directory is removed only if its mark says that
it continues the directory in the state, or if that directory continues it.
"""

from __future__ import annotations

import json
import os
import re
import shutil
from dataclasses import dataclass
from pathlib import Path

from tracker_daemon.backends.wandb.core_process import CoreProcess
from tracker_daemon.backends.wandb.transaction_log import LoggedRow, TransactionLog
from tracker_daemon.files.atomic_file import replace_file, sync_directory

MARKER = ".tracker-session"


@dataclass(frozen=True, slots=True)
class SessionDirectory:
    """The SDK's directory of one session."""

    path: Path

    def log(self, wandb_id: str) -> Path:
        """Return the path of the SDK's log of all recorded data."""
        return self.path / f"run-{wandb_id}.wandb"

    def mark(self, run_id: str, continues: str, *, written_here: bool = True) -> None:
        """Mark the directory durably: its run, and the directory that it continues.

        If it is ``written_here``, by an SDK of this process, the mark names the SDK's process too.
        """
        core = CoreProcess.of_this_process() if written_here else None
        document = {"run_id": run_id, "continues": continues, "core": core}
        replace_file(self.path / MARKER, json.dumps(document).encode())
        sync_directory(self.path.parent)
        sync_directory(self.path.parent.parent)

    def belongs_to(self, run_id: str) -> bool:
        """Return True if the directory is marked as that run's."""
        return self._marks().get("run_id") == run_id

    @property
    def is_marked(self) -> bool:
        """True if the directory has a mark."""
        return bool(self._marks())

    @property
    def continues(self) -> str | None:
        """The directory of the session before, "" if there is none; None without a mark."""
        found = self._marks().get("continues")
        return found if isinstance(found, str) else None

    def has_writer(self) -> bool:
        """Return True if the SDK's process that writes the directory is alive, or is unknown."""
        core = self._core()
        return core is None or core.is_alive()

    def end_writer(self) -> None:
        """Kill the SDK's process that writes the directory, if it has outlived its parent.

        Raises:
            BackendUnavailable: the process does not end.
        """
        if core := self._core():
            core.kill_orphan(self.path)

    def remove(self) -> None:
        """Remove the directory with all its files."""
        shutil.rmtree(self.path, ignore_errors=True)

    def has_rows(self, wandb_id: str) -> bool:
        """Return True if the SDK's log holds a row of the history."""
        logged = TransactionLog(self.log(wandb_id)).read()
        return any(isinstance(one, LoggedRow) for one in logged)

    def _core(self) -> CoreProcess | None:
        core = self._marks().get("core")
        return CoreProcess(*core) if isinstance(core, list) and len(core) == 2 else None

    def _marks(self) -> dict[str, object]:
        try:
            marks = json.loads((self.path / MARKER).read_bytes())
        except (OSError, ValueError):
            return {}
        return marks if isinstance(marks, dict) else {}


def session_directories(outdir: Path, wandb_id: str) -> list[SessionDirectory]:
    """Return the directories that the SDK made for that id, online and offline."""
    name = re.compile(rf"(offline-)?run-\d+_\d+-{re.escape(wandb_id)}(-\w+)?")
    made = (outdir / "wandb").glob("*run-*")
    return [SessionDirectory(path) for path in sorted(made) if name.fullmatch(path.name) and path.is_dir()]


def make_durable(log: Path) -> None:
    """Sync the file's content to the disk."""
    descriptor = os.open(log, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class RunDirectories:
    """The session directories of one run."""

    outdir: Path
    run_id: str
    wandb_id: str

    def own(self) -> list[SessionDirectory]:
        """Return the directories that are marked as this run's."""
        found = session_directories(self.outdir, self.wandb_id)
        return [directory for directory in found if directory.belongs_to(self.run_id)]

    def remove_unused(self, committed: str, current: SessionDirectory | None) -> int:
        """Remove the directory before the committed one, and uncommitted ones; return their number.

        ``committed`` is the directory in the state, "" if none; ``current`` that of the open session.
        """
        unused = [one for one in self.own() if one != current and self._is_unused(one, committed)]
        for directory in unused:
            directory.remove()
        return len(unused)

    def _is_unused(self, one: SessionDirectory, committed: str) -> bool:
        if committed:
            before = SessionDirectory(Path(committed)).continues
            return one.continues == committed or str(one.path) == before
        # Nothing is logged before the first commit, so a directory with rows is another daemon's.
        return one.continues == "" and not one.has_rows(self.wandb_id)


@dataclass(frozen=True, slots=True)
class SessionStartNote:
    """A note in ``outdir`` of the directories that exist before a session starts, until its own is marked.

    The SDK chooses the name of the session's directory. A process that is killed before it can mark the
    directory would otherwise leave one that looks like another daemon's.
    """

    outdir: Path
    run_id: str
    wandb_id: str

    def write(self, continues: str) -> list[SessionDirectory]:
        """Note durably that a session starts, and the directory that it continues.

        Returns the directories that exist already.
        """
        before = session_directories(self.outdir, self.wandb_id)
        document = {"continues": continues, "before": [one.path.name for one in before]}
        replace_file(self._path, json.dumps(document).encode())
        return before

    def remove(self) -> None:
        """Remove the note: the new directory is marked, or the session did not start."""
        self._path.unlink(missing_ok=True)

    def mark_unmarked(self) -> None:
        """Mark the directory that an earlier process could not mark; it holds no data yet."""
        try:
            noted = json.loads(self._path.read_bytes())
        except (OSError, ValueError):  # without a complete note no session was started
            return
        for one in session_directories(self.outdir, self.wandb_id):
            if one.path.name not in noted["before"] and not one.is_marked:
                one.mark(self.run_id, noted["continues"], written_here=False)
        self.remove()

    @property
    def _path(self) -> Path:
        return self.outdir / f".tracker-wandb-{self.wandb_id}.begun"

"""Segments: the directories in which the W&B SDK keeps a run, one for each time that it was begun.

``<outdir>/wandb/offline-run-<time>-<id>`` or, online, ``run-<time>-<id>`` holds the log of all that
was recorded (``run-<id>.wandb``) and the SDK's own notes. A segment of ours is marked with the run's
id, with the segment that it continues, and with the process of the SDK that writes it. Other daemons
may have left segments of the same id there: only what is marked as continued by, or as continuing, the
segment in the state is ever removed.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tracker_daemon.errors import BackendUnavailable
from tracker_daemon.files.atomic_file import replace_file, sync_directory
from tracker_protocol import limits

MARKER = ".tracker-run"
_NOTES = Path("logs", "debug-internal.log")
_FATAL_LEVEL = "ERROR+4"
_CORE = "wandb-core"
_PROC = Path("/proc")


@dataclass(frozen=True, slots=True)
class UploadFault:
    """What ended an upload: the SDK's words, and the server's last HTTP status if it was one."""

    text: str
    status: int | None


@dataclass(frozen=True, slots=True)
class SessionDirectory:
    """One directory of the SDK's."""

    directory: Path

    def log(self, wandb_id: str) -> Path:
        """The log of all that was recorded."""
        return self.directory / f"run-{wandb_id}.wandb"

    def mark(self, run_id: str, continues: str, *, ours: bool = True) -> None:
        """Note whose it is, which segment it continues and, if it is of this process, what writes it.

        Durable on return.
        """
        document = {"run_id": run_id, "continues": continues, "core": _own_core() if ours else None}
        replace_file(self.directory / MARKER, json.dumps(document).encode())
        sync_directory(self.directory.parent)
        sync_directory(self.directory.parent.parent)

    def belongs_to(self, run_id: str) -> bool:
        """Whether it is marked as that run's."""
        return self._marks().get("run_id") == run_id

    @property
    def is_marked(self) -> bool:
        """Whether it is known whose it is."""
        return bool(self._marks())

    @property
    def continues(self) -> str | None:
        """The directory of the segment that it continues, "" for none; None where it is not marked."""
        found = self._marks().get("continues")
        return found if isinstance(found, str) else None

    def has_writer(self) -> bool:
        """Whether the process that writes it lives, as far as that is known."""
        core = self._marks().get("core")
        if not isinstance(core, list) or len(core) != 2:
            return True
        found = _process(core[0])
        return found is not None and found.began == core[1]

    def end_writer(self) -> None:
        """End the process that writes it, where that has outlived the one that started it.

        Raises:
            BackendUnavailable: it cannot be ended.
        """
        core = self._marks().get("core")
        if not isinstance(core, list) or len(core) != 2:
            return
        process, began = core
        deadline = time.monotonic() + limits.WANDB_CORE_ENDS_S
        while (
            (found := _process(process)) is not None and found.began == began and found.parent != os.getpid()
        ):
            if time.monotonic() > deadline:
                raise BackendUnavailable(
                    f"{_CORE} (pid {process}), left by an earlier process, still writes {self.directory} "
                    "and does not end"
                )
            os.kill(process, signal.SIGKILL)
            time.sleep(0.02)

    def remove(self) -> None:
        """Remove it with all that it holds."""
        shutil.rmtree(self.directory, ignore_errors=True)

    def _marks(self) -> dict[str, object]:
        try:
            marks = json.loads((self.directory / MARKER).read_bytes())
        except (OSError, ValueError):
            return {}
        return marks if isinstance(marks, dict) else {}


@dataclass(frozen=True, slots=True)
class SessionStartNote:
    """A note in ``outdir`` of the segments that there were before one is begun, until that one is marked.

    The SDK names a segment itself, and a process that is killed before it can mark it would leave one that
    nobody could tell from another daemon's.
    """

    outdir: Path
    run_id: str
    wandb_id: str

    def note(self, continues: str) -> list[SessionDirectory]:
        """Note that a segment is begun which continues that one; the segments that there are. Durable."""
        before = session_directories(self.outdir, self.wandb_id)
        document = {"continues": continues, "before": [segment.directory.name for segment in before]}
        replace_file(self._path, json.dumps(document).encode())
        return before

    def forget(self) -> None:
        """It is marked, or was not begun."""
        self._path.unlink(missing_ok=True)

    def settle(self) -> None:
        """Mark what an earlier process began and did not come to mark: nothing is logged in it yet."""
        try:
            noted = json.loads(self._path.read_bytes())
        except (OSError, ValueError):  # none, or one that was not written to its end: then nothing was begun
            return
        for segment in session_directories(self.outdir, self.wandb_id):
            if segment.directory.name not in noted["before"] and not segment.is_marked:
                segment.mark(self.run_id, noted["continues"], ours=False)
        self.forget()

    @property
    def _path(self) -> Path:
        return self.outdir / f".tracker-wandb-{self.wandb_id}.begun"


@dataclass
class UploadWatch:
    """Reads the SDK's notes on its upload, from where it stopped the last time."""

    segment: SessionDirectory
    status: int | None = None
    """The HTTP status of the last error that the server answered with."""
    fault: UploadFault | None = None
    """Why the SDK gave up uploading, if it did."""
    _retry: str = ""
    """Why something is tried again, as of the last note."""
    _retried_since_s: float = 0.0
    _offset: int = 0

    def look(self) -> UploadFault | None:
        """Read on, and tell why the SDK gave up, if it did."""
        for note in self._new_notes():
            self._note_progress(note)
            if note.get("level") == _FATAL_LEVEL and self.fault is None:
                self.fault = UploadFault(str(note.get("msg", "")), self.status)
        return self.fault

    def trouble(self) -> str:
        """Why the SDK has been trying again for a while, without success between; "" where it has not."""
        self.look()
        tried_s = time.monotonic() - self._retried_since_s
        return self._retry if self._retry and tried_s >= limits.WANDB_TROUBLE_AFTER_S else ""

    def _note_progress(self, note: dict[str, Any]) -> None:
        """Requests that are tried again have a number as status, or an error; those that succeed "200 OK"."""
        status, error = note.get("status"), note.get("error")
        if isinstance(status, str) and status.startswith("2"):
            self._retry = ""
            return
        if isinstance(status, int):
            self.status = status
        if isinstance(status, int) or isinstance(error, str):
            if not self._retry:
                self._retried_since_s = time.monotonic()
            self._retry = f"HTTP {status}" if isinstance(status, int) else str(error)

    def _new_notes(self) -> Iterator[dict[str, Any]]:
        try:
            with (self.segment.directory / _NOTES).open("rb") as file:
                file.seek(self._offset)
                text = file.read()
        except OSError:
            return
        whole = text[: text.rfind(b"\n") + 1]
        self._offset += len(whole)
        for line in whole.splitlines():
            try:
                note = json.loads(line)
            except ValueError:
                continue
            if isinstance(note, dict):
                yield note


def session_directories(outdir: Path, wandb_id: str) -> list[SessionDirectory]:
    """The directories that the SDK made for that id, online and offline."""
    name = re.compile(rf"(offline-)?run-\d+_\d+-{re.escape(wandb_id)}(-\w+)?")
    made = (outdir / "wandb").glob("*run-*")
    return [SessionDirectory(path) for path in sorted(made) if name.fullmatch(path.name) and path.is_dir()]


def make_durable(log: Path) -> None:
    """Have the file's content on the disk before anything relies on it."""
    descriptor = os.open(log, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class _Process:
    parent: int
    began: int


def _own_core() -> list[int] | None:
    """The SDK's process that this one started, and when; None where that cannot be found out."""
    known = ((int(path.name), _process(int(path.name))) for path in _PROC.glob("[0-9]*"))
    own = [[process, found.began] for process, found in known if found and found.parent == os.getpid()]
    return max(own, key=lambda core: core[1], default=None)  # an earlier one may still be ending


def _process(number: int) -> _Process | None:
    """A process of that number, if it is the SDK's and has not ended."""
    try:
        text = (_PROC / str(number) / "stat").read_text()
    except OSError:
        return None
    name, _, rest = text.partition("(")[2].rpartition(")")
    fields = rest.split()
    if name != _CORE or fields[0] in {"Z", "X"}:
        return None
    return _Process(parent=int(fields[1]), began=int(fields[19]))

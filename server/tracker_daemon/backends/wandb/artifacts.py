"""Artifacts on their way to the W&B SDK: kept as files, then prepared on a thread, then logged.

Before an artifact is logged, its files are linked into ``<outdir>/wandb/tracker-artifacts-<id>/<n>/``. The
daemon deletes a content after its delivery, and the SDK uploads later (offline much later). The kept
artifacts are logged again in each new session of the run; to W&B an artifact with the same content is the
same version. Online they are removed once the run has ended and all data is uploaded. So an entry counts as
delivered once its files are kept.

The SDK computes a digest of all files before it accepts an artifact. That takes long for large files, so a
thread does it while rows continue. A later delivery logs the artifact once it is ready; the delivery of the
run's end waits for all. The next process logs the artifacts that a dead process has not logged.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import deque
from collections.abc import Callable, Iterator
from importlib import import_module
from pathlib import Path
from queue import SimpleQueue
from typing import Any

from tracker_daemon.backends.item_names import plain_name
from tracker_daemon.backends.wandb.items import MEDIA_DIRECTORY, NumberedItem, UnusableItem
from tracker_daemon.files.content_files import content_path, place_copy

ARTIFACT_TYPE = "artifact"
_ABOUT = "tracker-artifact.json"
_WAIT_S = 1.0

MakeArtifact = Callable[[Path], Any]
"""Makes the SDK's artifact of the files that are kept at a place."""


class KeptArtifacts:
    """The artifacts of one W&B run, kept as files until they are uploaded."""

    def __init__(self, outdir: Path, wandb_id: str) -> None:
        self._directory = outdir / "wandb" / f"tracker-artifacts-{wandb_id}"
        # The SDK's own copies; their default place is the user's home, which may be small.
        os.environ.setdefault("WANDB_DATA_DIR", str(outdir / "wandb"))

    def place(self, number: int) -> Path:
        """Return the place of the artifact of entry ``number``."""
        return self._directory / str(number)

    def keep(self, numbered: NumberedItem) -> Path:
        """Keep an artifact's files; return their place."""
        item, place = numbered.item, self.place(numbered.number)
        shutil.rmtree(place, ignore_errors=True)
        for content in item.contents:
            target = place / MEDIA_DIRECTORY / content.path
            target.parent.mkdir(parents=True, exist_ok=True)
            source = content_path(numbered.contents, content.sha256)
            try:
                os.link(source, target)
            except OSError:  # another file system
                place_copy(source, target)
        place.mkdir(parents=True, exist_ok=True)
        (place / _ABOUT).write_text(json.dumps({"label": item.key, "step": item.step}), encoding="utf-8")
        return place

    def places(self) -> list[Path]:
        """Return the places of all kept artifacts, in the order of their entries."""
        whole = (place for place in self._directory.glob("[0-9]*") if (place / _ABOUT).exists())
        return sorted(whole, key=lambda place: int(place.name))

    def drop(self, place: Path) -> None:
        """Remove one artifact, which the SDK has refused."""
        shutil.rmtree(place, ignore_errors=True)

    def clear(self) -> None:
        """Remove all artifacts, which are uploaded."""
        shutil.rmtree(self._directory, ignore_errors=True)


def sdk_artifact(place: Path) -> Any:
    """Make the SDK's artifact of the files that are kept at ``place``."""
    wandb = import_module("wandb")
    about = json.loads((place / _ABOUT).read_bytes())
    name = plain_name(about["label"])
    artifact = wandb.Artifact(name, type=ARTIFACT_TYPE, metadata=about)
    files = place / MEDIA_DIRECTORY
    for path in sorted(files.rglob("*")):
        if path.is_file():
            artifact.add_file(
                str(path), name=path.relative_to(files).as_posix(), skip_cache=True, policy="immutable"
            )
    return artifact


class _Preparation:
    """The preparation of the artifact that is kept at ``place``."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.done = threading.Event()
        self._artifact: Any = None
        self._error: Exception | None = None

    def run(self, make: MakeArtifact) -> None:
        """Make the artifact; on the queue's thread."""
        try:
            self._artifact = make(self.place)
        # The thread's outermost frame: result() raises every error of the SDK again.
        except Exception as error:  # noqa: BLE001
            self._error = error
        self.done.set()

    def result(self) -> Any:
        """Return the SDK's artifact.

        Raises:
            UnusableItem: the SDK cannot make it.
        """
        if self._error is not None:
            raise UnusableItem(f"W&B cannot make an artifact of these files: {self._error}") from self._error
        return self._artifact


class ArtifactQueue:
    """Prepares artifacts in the order of ``put``. There is one queue for each session; one thread uses it."""

    def __init__(self, make: MakeArtifact = sdk_artifact) -> None:
        self._make = make
        self._pending: deque[_Preparation] = deque()
        self._work: SimpleQueue[_Preparation | None] = SimpleQueue()
        self._thread: threading.Thread | None = None
        self._known: set[Path] = set()

    def __contains__(self, place: Path) -> bool:
        """Return True if the artifact at ``place`` was put as known; it may be logged already."""
        return place in self._known

    def put(self, place: Path, *, known: bool = True) -> None:
        """Begin to prepare the artifact that is kept at ``place``.

        It is ``known`` if no other artifact can have the same place.
        """
        if self._thread is None:
            # A daemon thread: its result has no use in a process that ends.
            self._thread = threading.Thread(target=self._prepare, name="wandb-artifacts", daemon=True)
            self._thread.start()
        preparation = _Preparation(place)
        if known:
            self._known.add(place)
        self._pending.append(preparation)
        self._work.put(preparation)

    def log_ready(self, log: Callable[[Any], None]) -> Iterator[tuple[Path, str]]:
        """Log the artifacts that are ready, in order; yield the place and reason of each refused one."""
        while self._pending and self._pending[0].done.is_set():
            one = self._pending.popleft()
            try:
                log(one.result())
            except UnusableItem as error:
                yield one.place, str(error)

    def log_all(self, log: Callable[[Any], None], beat: Callable[[], None]) -> Iterator[tuple[Path, str]]:
        """Wait for all artifacts and log them as :meth:`log_ready` does; call ``beat`` meanwhile."""
        while self._pending:
            self._pending[0].done.wait(_WAIT_S)
            beat()
            yield from self.log_ready(log)

    def close(self) -> None:
        """Drop the artifacts that are not logged; the thread ends after the current one."""
        self._pending.clear()
        self._work.put(None)

    def _prepare(self) -> None:
        while (preparation := self._work.get()) is not None:
            preparation.run(self._make)

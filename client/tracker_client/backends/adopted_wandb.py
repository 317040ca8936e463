"""A W&B run that the script has opened by ``wandb.init``, as the run's backend ``wandb``.

The daemon then opens no W&B run. The primary rank's process gets the records back and logs them to the
script's own run, as for a class of the script. W&B's own objects are logged to that run directly.

A row's ``_step`` is its training step, or the next one that W&B accepts: W&B drops a row below its last step.
The column ``step`` always has the training step. The script's own definitions of metrics stay as they are.
"""

from __future__ import annotations

import io
import os
import re
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from typing import Any, ClassVar

from tracker_client.backends.base import TrackerBackend
from tracker_client.backends.script_classes import ScriptClass, ScriptClasses
from tracker_protocol import limits
from tracker_protocol.script_facts import wandb_config

WANDB = "wandb"
STEP_COLUMN = "step"
_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")

opened_by_backends: weakref.WeakSet[Any] = weakref.WeakSet()
"""W&B's runs that a backend in this process has opened; the script has not."""


def own_run(modules: Mapping[str, Any]) -> Any | None:
    """Return the open run that the script's ``wandb.init`` returned; None if there is none.

    Args:
        modules: the modules that the process has imported.
    """
    run = getattr(modules.get(WANDB), "run", None)
    # A tracker may have set `wandb.run` to its handle.
    if run is None or not type(run).__module__.startswith(f"{WANDB}."):
        return None
    return None if run in opened_by_backends else run


class AdoptedWandbRun(TrackerBackend):
    """Records to ``run``, the script's own W&B run; ``wandb`` is the module, ``facts`` are about the script.

    Attributes:
        run: the script's run.
    """

    name: ClassVar[str] = WANDB

    def __init__(self, wandb: Any, run: Any, facts: Mapping[str, str]) -> None:
        self.run = run
        self._facts = facts
        self._wandb = wandb
        self._last_step = -1
        self._is_fed = False
        self._objects: dict[int, dict[str, Any]] = {}
        """W&B's objects by the step whose row they wait for."""
        self._following: dict[str, Any] = {}
        """Objects for the next row."""

    @property
    def run_url(self) -> str | None:
        """The run's page at W&B; None offline."""
        url: str | None = self.run.url
        return url

    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:  # noqa: FBT001, FBT002, ARG002 - TrackerBackend's
        """Log one record, with its training step in a column of its own, and the objects of its step."""
        self._begin()
        at = step if step is not None else self._last_step + 1
        for earlier in sorted(one for one in self._objects if one < at):
            self._send(self._objects.pop(earlier), earlier)
        following, self._following = self._following, {}
        self._send({**following, **self._objects.pop(at, {}), **metrics}, at)

    def _begin(self) -> None:
        """Describe the script in the run's configuration, before the first record."""
        if not self._is_fed:
            self._is_fed = True
            described = wandb_config(self._facts, datetime.now(timezone.utc))
            self.run.config.update(described, allow_val_change=True)

    def log_objects(self, objects: Mapping[str, Any], step: int | None = None) -> None:
        """Log W&B's own objects as they are, in the row of their step; without a step, in the next row.

        The row comes later: the daemon sends its record once all ranks have reported.
        """
        waiting = self._following if step is None else self._objects.setdefault(step, {})
        waiting.update(objects)
        if len(self._objects) > limits.SCRIPT_CALLS_WAITING_MAX:
            self._send_objects()

    def _send_objects(self) -> None:
        for step in sorted(self._objects):
            self._send(self._objects.pop(step), step)

    def _send(self, row: Mapping[str, Any], step: int) -> None:
        # The script may also log to the run itself.
        self._last_step = max(step, self._last_step + 1, self.run.step)
        self.run.log({**row, STEP_COLUMN: step}, step=self._last_step, commit=True)

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Merge ``config`` into the run's, at its top level."""
        self._begin()
        self.run.config.update(dict(config), allow_val_change=True)

    def define_metric(self, glob: str, step_metric: str | None = None, summary: str | None = None) -> None:
        """Define metrics in the run."""
        self.run.define_metric(glob, step_metric=step_metric, summary=summary)

    def log_table(self, key: str, columns: Sequence[str] | None, data: Any) -> None:
        """Log a table of rows, or a data frame."""
        table = self._wandb.Table
        made = table(dataframe=data) if columns is None else table(columns=list(columns), data=list(data))
        self.log_objects({key: made})

    def log_image(self, key: str, image_path: Any, caption: str | None = None) -> None:
        """Log an image: a path, bytes, an array, a PIL image or a figure."""
        image: Any = image_path
        if isinstance(image, (bytes, bytearray)):
            from PIL import Image  # noqa: PLC0415 - W&B's own requirement for images

            image = Image.open(io.BytesIO(image))
        elif isinstance(image, os.PathLike):
            image = os.fspath(image)
        self.log_objects({key: self._wandb.Image(image, caption=caption)})

    def log_artifacts(self, paths: Mapping[str, Any]) -> None:
        """Log each file or directory as an artifact with its label's name."""
        for label, path in dict(paths).items():
            location = Path(os.fsdecode(path)).expanduser()
            if not location.exists():
                continue  # the tracker itself warns
            name = _NOT_IN_NAMES.sub("-", str(label))[:128]
            artifact = self._wandb.Artifact(name, type="artifact", metadata={"label": str(label)})
            if location.is_dir():
                artifact.add_dir(str(location))
            else:
                artifact.add_file(str(location))
            self.run.log_artifact(artifact)

    def finish(self) -> None:
        """End the run as finished."""
        self.finish_with(0)

    def finish_with(self, exit_code: int) -> None:
        """End the run with that exit code; a run that the daemon records nothing to stays open."""
        self._send_objects()
        if self._following:
            self._send(self._following, self._last_step + 1)
        if self._is_fed:
            self.run.finish(exit_code=exit_code)


def with_own_run(
    classes: ScriptClasses,
    backends: str | None,
    options: Mapping[str, Any],
    modules: Mapping[str, Any],
    facts: Mapping[str, str],
) -> ScriptClasses:
    """Return ``classes`` with the script's own W&B run, if one is open and ``backends`` names W&B.

    Args:
        classes: the script's own classes.
        backends: names separated by commas; None if they are not known.
        options: the keyword arguments of ``setup_tracker`` that concern backends.
        modules: the modules that the process has imported.
        facts: texts about the script.
    """
    run = own_run(modules)
    wanted = backends is None or WANDB in backends.split(",")
    if run is None or not wanted or WANDB in classes.by_name:
        return classes
    adopted = ScriptClass(partial(AdoptedWandbRun, modules[WANDB], run, facts))
    names = classes.argument_names | ({WANDB} & set(options))
    return replace(classes, by_name={**classes.by_name, WANDB: adopted}, argument_names=names, adopted=run)

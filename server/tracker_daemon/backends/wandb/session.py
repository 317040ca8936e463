"""A session: one ``wandb.init`` of a run, from its beginning until the run is released.

This module calls the SDK and turns the SDK's errors into the backend's. The SDK is imported when the first
session begins. The SDK never prompts on a terminal, and reports nothing to its makers.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import structlog

from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.wandb.init_arguments import Mode, init_arguments, settings_arguments, wandb_id
from tracker_daemon.backends.wandb.items import UnusableItem
from tracker_daemon.backends.wandb.metric_definitions import MetricDefinitions
from tracker_daemon.backends.wandb.rows import NO_STEP, STEP_COLUMN
from tracker_daemon.backends.wandb.session_directory import (
    SessionDirectory,
    SessionStartNote,
    make_durable,
    session_directories,
)
from tracker_daemon.backends.wandb.transaction_log import LoggedMetric, LoggedRow, TransactionLog
from tracker_daemon.backends.wandb.upload_watch import UploadWatch
from tracker_daemon.errors import BackendError, BackendRefused, BackendUnavailable
from tracker_protocol import limits

_POLL_S = 0.01
_NEEDS_THE_USER = frozenset({400, 401, 403, 404, 405, 410, 413, 422})
_KEY_ADVICE = (
    "set WANDB_API_KEY in the environment of the daemon (or of the script, without a daemon) or in its .env "
    "file, or set WANDB_MODE=offline to record without a key"
)
_ADVICE: Mapping[int | None, str] = {
    401: f"the key is not valid there; {_KEY_ADVICE}",
    403: "let the key's owner write to that entity and project, or choose others",
    404: "the run, its project or its entity does not exist (any more); a deleted run needs a new id",
    413: "the server, or a proxy before it, accepts no requests of that size",
}

log = structlog.get_logger(__name__)


class WandbSession:
    """One session of a run. ``last_remote_step`` is the last ``_step`` that the server has."""

    def __init__(self, run: RunDescription, mode: Mode, *, begun: bool, continues: str) -> None:
        """Begin the run, or continue it if it was ``begun`` before.

        ``continues`` is the directory of the session before, "" if there is none.

        Raises:
            BackendRefused: there is no key, or the server or the SDK refuses the run.
            BackendUnavailable: the server does not answer, or the SDK's process has failed.
        """
        self.mode = mode
        self._id = wandb_id(run)
        wandb = _load()
        if mode.remote:
            log_in(wandb)
        note = SessionStartNote(run.outdir, run.run_id, self._id)
        before = note.write(continues)
        try:
            self._run = self._begin(wandb, run, begun=begun)
        # wandb.init raises errors of any type; _init_error classifies them by type.
        except Exception as error:
            note.remove()
            now = session_directories(run.outdir, self._id)
            failed = [directory for directory in now if directory not in before]
            raise _init_error(wandb, error, failed) from error
        self._definitions = MetricDefinitions()
        self.directory = SessionDirectory(Path(self._run.settings.sync_dir))
        self.directory.mark(run.run_id, continues)
        note.remove()
        self._log = TransactionLog(self.directory.log(self._id))
        self._watch = UploadWatch(self.directory.path)
        self._failed = False
        self._rows = 0
        self._config_changes = 0
        self.last_remote_step = self._run.starting_step - 1 if mode is Mode.ONLINE else NO_STEP
        with self._translated():
            self._run.define_metric("*", step_metric=STEP_COLUMN)

    @property
    def url(self) -> str | None:
        """The run's URL; None offline."""
        url: str | None = self._run.url if self.mode.remote else None
        return url

    @property
    def handles(self) -> dict[str, str]:
        """The names by which the run is found, as far as the SDK knows them."""
        run = self._run
        found = {
            "id": self._id, "name": run.name, "project": run.project, "entity": run.entity,
            "group": run.group, "job_type": run.job_type, "url": self.url,
            "project_url": run.project_url if self.url else None,
            "dir": self.directory.path, "mode": self.mode.value,
        }  # fmt: skip
        return {name: str(value) for name, value in found.items() if value}

    def log(self, row: LoggedRow) -> None:
        """Log one row; in shared mode the server numbers the rows."""
        with self._translated():
            step = None if self.mode is Mode.SHARED else row.step
            self._run.log(row.values, step=step, commit=True)
        self._rows += 1

    def define(self, metrics: Iterable[LoggedMetric]) -> None:
        """Define the axes and summaries of ``metrics``, each once."""
        with self._translated():
            for definition in self._definitions.due(metrics):
                self._run.define_metric(**definition)

    def log_artifact(self, artifact: Any) -> None:
        """Log an artifact; the SDK uploads it in the background.

        Raises:
            UnusableItem: W&B has another object of that name, such as a model.
            BackendUnavailable: the SDK's process has failed.
        """
        with self._translated():
            try:
                self._run.log_artifact(artifact)
            except ValueError as error:
                if type(error) is not ValueError:  # pydantic's error about an answer that cannot be decoded
                    raise
                refused = error
            else:
                return
        raise UnusableItem(f"W&B refuses the artifact {artifact.name!r}: {refused}") from refused

    def configure(self, values: Mapping[str, Any]) -> None:
        """Merge ``values`` into the configuration, at its top level."""
        with self._translated():
            self._run.config.update(dict(values), allow_val_change=True)
        self._config_changes += 1

    def summarise(self, values: Mapping[str, Any]) -> None:
        """Set ``values`` in the run's summary."""
        with self._translated():
            self._run.summary.update(dict(values))

    def settle(self) -> None:
        """Return once all logged data is in the SDK's file, and that file is on the disk.

        Raises:
            BackendRefused: the SDK has given up the upload because the server refused it.
            BackendUnavailable: the SDK has given up for another reason, or does not write.
        """
        deadline = time.monotonic() + limits.WANDB_WRITTEN_TIMEOUT_S
        while not self._written():
            if self._log.advance():
                deadline = time.monotonic() + limits.WANDB_WRITTEN_TIMEOUT_S
            elif time.monotonic() > deadline:
                raise _core_lost(
                    f"{self._log.path} has not grown for {limits.WANDB_WRITTEN_TIMEOUT_S:.0f} s, though "
                    "there is more to write; look for room on the disk"
                )
            else:
                time.sleep(_POLL_S)
        make_durable(self._log.path)
        self.check_upload()

    def check_upload(self) -> None:
        """Raise as :meth:`settle` does if the SDK has given up the upload; only its notes show that."""
        fault = self._watch.look()
        if fault is not None and self.mode.remote:
            raise _refusal_or_outage(f"W&B's upload has ended: {fault.text}", fault.status)

    def trouble(self) -> str:
        """Return why the upload makes no progress while the SDK retries; "" if it makes progress.

        Raises as :meth:`settle` does, and BackendUnavailable if the SDK's process has ended. The SDK itself
        notices that only when it sends data. A batch system's SIGTERM ends that process, which handles the
        signal even if its parent ignores it.
        """
        self.check_upload()
        if not self.directory.has_writer():
            raise _core_lost("W&B's process has ended")
        if not self.mode.remote or not (reason := self._watch.trouble()):
            return ""
        return f"W&B does not accept the upload ({reason}); it is retried from {self.directory.path}"

    def finish(self, exit_code: int) -> None:
        """End the run with that code; return once all data is uploaded. Raises as :meth:`settle` does."""
        with self._translated():
            self._run.finish(exit_code=exit_code)
        self.settle()

    def release(self) -> None:
        """Release the run before its end; W&B shows it as failed until another session continues it."""
        try:
            self.finish(exit_code=1)
        except (BackendError, OSError):
            self._failed = True
        if self._failed:
            end_core()

    def _written(self) -> bool:
        return self._log.rows >= self._rows and self._log.config_changes >= self._config_changes

    def _begin(self, wandb: Any, run: RunDescription, *, begun: bool) -> Any:
        known = wandb.Settings.model_fields
        given = settings_arguments(run, self.mode)
        settings = {name: value for name, value in given.items() if name in known}
        if "stop_fn" in known:  # without it a "stop" in W&B's interface interrupts this process
            settings["stop_fn"] = _note_stop(run.run_id)
        arguments = init_arguments(run, self.mode, begun=begun)
        with _arguments_of(run):
            return wandb.init(**arguments, settings=wandb.Settings(**settings))

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError as error:
            self._failed = True
            raise BackendUnavailable(
                "W&B did not accept all data of the run in time; the rest is in "
                f"{self.directory.path} and is sent again from there"
            ) from error
        # The SDK's process and the connection to it fail in many ways, some of them plain Exceptions. After
        # each of them this session cannot continue, and no data may be assumed to be written.
        except Exception as error:
            self._failed = True
            raise _core_lost(f"W&B's process has failed ({type(error).__name__}: {error})") from error


def _load() -> Any:
    # The SDK reads these from the environment alone.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.pop("WANDB_SERVICE", None)  # the training script's own wandb process
    return load_sdk()


def load_sdk() -> Any:
    """Import the package ``wandb``.

    Raises:
        BackendRefused: the package cannot be imported, or is too old.
    """
    try:
        wandb = import_module("wandb")
    except ImportError as error:
        raise BackendRefused(
            f"wandb cannot be imported ({error}); pip install wandb where the daemon runs"
        ) from error
    if "x_transaction_log_flush_interval" not in wandb.Settings.model_fields:
        raise BackendRefused(
            f"wandb {wandb.__version__} is too old: it does not show what it has written; "
            "pip install --upgrade wandb where the daemon runs"
        )
    return wandb


def log_in(wandb: Any) -> None:
    """Find W&B's API key, without a prompt on the terminal.

    Raises:
        BackendRefused: there is no key, or its form is not that of a key.
    """
    try:
        known = wandb.login(prompt=False, verify=False)
    except (wandb.errors.Error, ValueError) as error:
        raise BackendRefused(f"W&B's key cannot be used ({error}); {_KEY_ADVICE}") from error
    if not known:
        raise BackendRefused(f"W&B has no API key; {_KEY_ADVICE}")


def _init_error(wandb: Any, error: Exception, failed: list[SessionDirectory]) -> BackendError:
    """Return the error for a failed ``init``; end the SDK's process and remove its files.

    The SDK's process would otherwise count the run as begun.
    """
    statuses = []
    for directory in failed:
        watch = UploadWatch(directory.path)
        watch.look()
        statuses.append(watch.status)
    end_core()
    for directory in failed:
        directory.remove()
    text = f"W&B does not begin the run: {type(error).__name__}: {error}"
    # ValueError: the SDK's own checks refused a setting.
    if isinstance(error, (wandb.errors.UsageError, wandb.errors.AuthenticationError, ValueError)):
        return BackendRefused(text)
    return _refusal_or_outage(text, statuses[-1] if statuses else None)


def _refusal_or_outage(text: str, status: int | None) -> BackendError:
    advice = _ADVICE.get(status, "data that was not accepted is kept and sent again")
    if status in _NEEDS_THE_USER:
        return BackendRefused(f"{text} (HTTP {status}); {advice}")
    return BackendUnavailable(f"{text}; {advice}")


def _core_lost(text: str) -> BackendUnavailable:
    return BackendUnavailable(f"{text}; committed data is kept, and delivery restarts from it")


@contextlib.contextmanager
def _arguments_of(run: RunDescription) -> Iterator[None]:
    """Show the script's arguments to W&B in place of this process's, while a run begins."""
    own = sys.argv
    try:
        sys.argv = shlex.split(run.environment.get("command", "")) or own[:1]
    except ValueError:  # the command was shortened, perhaps within quotes
        sys.argv = own[:1]
    try:
        yield
    finally:
        sys.argv = own


def end_core() -> None:
    """End the SDK's process, so that the next session starts another one."""
    # A lost connection raises errors of any type; no data is left to lose.
    with contextlib.suppress(Exception):
        import_module("wandb").teardown(exit_code=1)


def _note_stop(run_id: str) -> Callable[[], None]:
    return lambda: log.warning(
        "W&B asks for the run to be stopped; it continues, since only its script can end it", run_id=run_id
    )

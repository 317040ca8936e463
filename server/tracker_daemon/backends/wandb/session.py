"""A session: one ``wandb.init`` of a run, and what is logged into it until it is let go.

This is the only module that calls the SDK, and where its errors become the backend's. It is imported
when the first session begins. It never asks anything on a terminal, and reports nothing to W&B's makers.
"""

from __future__ import annotations

import contextlib
import os
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
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
    UploadWatch,
    make_durable,
    session_directories,
)
from tracker_daemon.backends.wandb.transaction_log import LoggedRow, TransactionLog
from tracker_daemon.errors import BackendError, BackendRefused, BackendUnavailable
from tracker_protocol import limits

_POLL_S = 0.01
_NEEDS_THE_USER = frozenset({400, 401, 403, 404, 405, 410, 413, 422})
_KEY_ADVICE = (
    "set WANDB_API_KEY in the environment of the daemon (or of the script, without a daemon) or in its .env "
    "file, or WANDB_MODE=offline to do without"
)
_ADVICE: Mapping[int | None, str] = {
    401: f"the key is not valid there; {_KEY_ADVICE}",
    403: "let the key's owner write to that entity and project, or choose others",
    404: "the run, its project or its entity is not there (any more); a run that was deleted takes a new id",
    413: "the server, or a proxy before it, takes no requests of that size",
}

log = structlog.get_logger(__name__)


class WandbSession:
    """A run that is being written. ``last_remote_step`` is the last ``_step`` that the server has."""

    def __init__(self, run: RunDescription, mode: Mode, *, begun: bool, continues: str) -> None:
        """Begin or continue the run; ``continues`` is the directory of its session before.

        Raises:
            BackendRefused: there is no key, or the server or the SDK refuses.
            BackendUnavailable: the server does not answer, or the SDK's process has failed.
        """
        self.mode = mode
        self._id = wandb_id(run)
        wandb = _load()
        if mode.remote:
            log_in(wandb)
        beginning = SessionStartNote(run.outdir, run.run_id, self._id)
        before = beginning.note(continues)
        try:
            self._run = self._begin(wandb, run, begun=begun)
        # wandb.init raises what it likes; _init_error tells them apart by type.
        except Exception as error:
            beginning.forget()
            failed = [
                segment for segment in session_directories(run.outdir, self._id) if segment not in before
            ]
            raise _init_error(wandb, error, failed) from error
        self._definitions = MetricDefinitions(run.metrics)
        self.segment = SessionDirectory(Path(self._run.settings.sync_dir))
        self.segment.mark(run.run_id, continues)
        beginning.forget()
        self._log = TransactionLog(self.segment.log(self._id))
        self._watch = UploadWatch(self.segment)
        self._failed = False
        self._rows = 0
        self._config_changes = 0
        self.last_remote_step = self._run.starting_step - 1 if mode is Mode.ONLINE else NO_STEP
        with self._translated():
            self._run.define_metric("*", step_metric=STEP_COLUMN)

    @property
    def url(self) -> str | None:
        """Where the run can be seen; None offline."""
        url: str | None = self._run.url if self.mode.remote else None
        return url

    @property
    def handles(self) -> dict[str, str]:
        """How the run is found, as far as the SDK knows."""
        run = self._run
        found = {
            "id": self._id, "name": run.name, "project": run.project, "entity": run.entity,
            "group": run.group, "job_type": run.job_type, "url": self.url,
            "project_url": run.project_url if self.url else None,
            "dir": self.segment.directory, "mode": self.mode.value,
        }  # fmt: skip
        return {name: str(value) for name, value in found.items() if value}

    def log(self, row: LoggedRow) -> None:
        """Log one row. In the mode shared the server numbers the rows."""
        with self._translated():
            for definition in self._definitions.due(row.values):
                self._run.define_metric(**definition)
            step = None if self.mode is Mode.SHARED else row.step
            self._run.log(row.values, step=step, commit=True)
        self._rows += 1

    def log_artifact(self, artifact: Any) -> None:
        """Log an artifact, which is then uploaded in the background.

        Raises:
            UnusableItem: W&B has something else under its name, a model perhaps; otherwise as :meth:`settle`.
        """
        with self._translated():
            try:
                self._run.log_artifact(artifact)
            except ValueError as error:
                if type(error) is not ValueError:  # one of pydantic's, of an answer that is none
                    raise
                refused = error
            else:
                return
        raise UnusableItem(f"W&B does not take the artifact {artifact.name!r}: {refused}") from refused

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
        """Return once all that was logged is in the SDK's file, and that on the disk.

        Raises:
            BackendRefused: the SDK has given up uploading, since the server refused.
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
        """Raise if the SDK has given up uploading; it says so nowhere else than in its notes."""
        fault = self._watch.look()
        if fault is not None and self.mode.remote:
            raise _refusal_or_outage(f"W&B's upload has ended: {fault.text}", fault.status)

    def trouble(self) -> str:
        """Why the upload does not get on, while the SDK tries again; "" where it does.

        Raises as :meth:`settle`, and where the SDK's process has ended, which the SDK sees only once it sends
        something. A batch system's SIGTERM does that: the SDK's process takes it, whatever is inherited.
        """
        self.check_upload()
        if not self.segment.has_writer():
            raise _core_lost("W&B's process has ended")
        if not self.mode.remote or not (reason := self._watch.trouble()):
            return ""
        return f"W&B does not take the upload ({reason}); it is tried again, from {self.segment.directory}"

    def finish(self, exit_code: int) -> None:
        """End the run with that code, and return when all of it is uploaded; raises as :meth:`settle`."""
        with self._translated():
            self._run.finish(exit_code=exit_code)
        self.settle()

    def release(self) -> None:
        """Let go of the run before its end: it is marked as failed until it is taken up again."""
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
        if "stop_fn" in known:  # else a "stop" in W&B's interface interrupts this process
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
                "W&B did not take all of the run in time; what is left is in "
                f"{self.segment.directory} and is sent again from there"
            ) from error
        # The SDK's process and the connection to it fail in a dozen ways, some of them plain Exceptions;
        # all mean that this session cannot go on, and that nothing may be taken to be written.
        except Exception as error:
            self._failed = True
            raise _core_lost(f"W&B's process has failed ({type(error).__name__}: {error})") from error


def _load() -> Any:
    # In the environment, since the SDK reads these there alone.
    os.environ.setdefault("WANDB_ERROR_REPORTING", "false")
    os.environ.pop("WANDB_SERVICE", None)  # the training script's own wandb process
    return load_sdk()


def load_sdk() -> Any:
    """The package ``wandb``.

    Raises:
        BackendRefused: it cannot be imported, or is too old.
    """
    try:
        wandb = import_module("wandb")
    except ImportError as error:
        raise BackendRefused(
            f"wandb cannot be imported ({error}); pip install wandb where the daemon runs"
        ) from error
    if "x_transaction_log_flush_interval" not in wandb.Settings.model_fields:
        raise BackendRefused(
            f"wandb {wandb.__version__} is too old to tell what it has written; "
            "pip install --upgrade wandb where the daemon runs"
        )
    return wandb


def log_in(wandb: Any) -> None:
    """Find W&B's API key, without a word on the terminal.

    Raises:
        BackendRefused: there is none, or none that can be one.
    """
    try:
        known = wandb.login(prompt=False, verify=False)
    except (wandb.errors.Error, ValueError) as error:
        raise BackendRefused(f"W&B's key cannot be used ({error}); {_KEY_ADVICE}") from error
    if not known:
        raise BackendRefused(f"W&B has no API key; {_KEY_ADVICE}")


def _init_error(wandb: Any, error: Exception, failed: list[SessionDirectory]) -> BackendError:
    """What a failed ``init`` means. Ends the SDK's process, which takes the run for begun, and its files."""
    statuses = []
    for segment in failed:
        watch = UploadWatch(segment)
        watch.look()
        statuses.append(watch.status)
    end_core()
    for segment in failed:
        segment.remove()
    text = f"W&B does not begin the run: {type(error).__name__}: {error}"
    # ValueError: the SDK's settings were refused by their checks.
    if isinstance(error, (wandb.errors.UsageError, wandb.errors.AuthenticationError, ValueError)):
        return BackendRefused(text)
    return _refusal_or_outage(text, statuses[-1] if statuses else None)


def _refusal_or_outage(text: str, status: int | None) -> BackendError:
    advice = _ADVICE.get(status, "what was not taken is kept and sent again")
    if status in _NEEDS_THE_USER:
        return BackendRefused(f"{text} (HTTP {status}); {advice}")
    return BackendUnavailable(f"{text}; {advice}")


def _core_lost(text: str) -> BackendUnavailable:
    """An error after which this process can use the SDK no more, unless its own process is ended."""
    error = BackendUnavailable(f"{text}; what is committed is kept, and delivery begins again from it")
    error.restart_child = True  # type: ignore[attr-defined]
    return error


@contextlib.contextmanager
def _arguments_of(run: RunDescription) -> Iterator[None]:
    """While a run begins, W&B finds the script's arguments where it looks for them, not this process's."""
    own = sys.argv
    try:
        sys.argv = shlex.split(run.environment.get("command", "")) or own[:1]
    except ValueError:  # it was cut, in the middle of a quotation perhaps
        sys.argv = own[:1]
    try:
        yield
    finally:
        sys.argv = own


def end_core() -> None:
    """End the SDK's process, so that the next session starts another."""
    # It raises whatever the lost connection does; there is nothing left to lose.
    with contextlib.suppress(Exception):
        import_module("wandb").teardown(exit_code=1)


def _note_stop(run_id: str) -> Callable[[], None]:
    return lambda: log.warning(
        "W&B asks for the run to be stopped; it goes on, since only its script can end it", run_id=run_id
    )

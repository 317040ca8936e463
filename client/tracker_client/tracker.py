"""What a training script holds: :class:`Tracker`, :class:`NullTracker` and :func:`setup_tracker`.

``Tracker.log`` is the hot path. It copies the dict, takes the time and appends to the staging buffer;
which step is meant, what makes a row and whether a name is valid is decided later, by the sender.

After a fork the tracker is inert in the child: its sender's thread does not exist there and gRPC must
not be touched, so ``log`` does nothing and neither does the exit of the child.
"""

from __future__ import annotations

import atexit
import json
import logging
import math
import operator
import os
import secrets
import sys
import threading
import time
import weakref
from collections.abc import Mapping, Sequence
from time import time_ns
from types import TracebackType
from typing import Any

from tracker_client.buffer import FAST_ROW_VALUES_MAX, VALUE_BYTES, HeavyRow, StagingBuffer
from tracker_client.errors import DaemonRefused, EndpointError
from tracker_client.refusals import Refusals
from tracker_client.sender import Finish, LogConfig, Sender
from tracker_client.settings import ClientSettings, backends_of, read_settings
from tracker_client.status import TrackerStatus
from tracker_client.stream import Introduction
from tracker_client.values import PLAIN, snapshot
from tracker_client.version import __version__
from tracker_protocol import limits

FINISH_TIMEOUT_S = 60.0
JOIN_GRACE_S = 2.0
"""How much longer than its own deadline ``finish`` waits for the sender's thread."""
FIRST_TRY_S = 0.5
"""CPython 3.12 starts no thread once a script has ended, so the connection of a very short one must
have its threads before that; how long setting up waits for them there."""
WAITS = ("recorded", "delivered")

logger = logging.getLogger("tracker_client")
_trackers: weakref.WeakSet[Tracker] = weakref.WeakSet()
_ordinals: dict[tuple[str, str], int] = {}
_ordinals_lock = threading.Lock()
_forked_from_tracker = False


class Tracker:
    """A rank's connection to its run. Make one with :func:`setup_tracker`.

    All methods may be called from any thread, and none raises for bad input.
    """

    def __init__(self, settings: ClientSettings, config: Mapping[str, Any] | None = None) -> None:
        self._settings = settings
        self._refusals = Refusals()
        self._staging = StagingBuffer(settings.buffer_bytes, self._wake_sender)
        self._rows = self._staging.rows
        self._sender = Sender(settings, _introduce(settings), self._staging, self._refusals)
        self._closed = False
        self._inert = False
        self._calls_after_finish = 0
        self._finish_lock = threading.Lock()
        _trackers.add(self)
        self._sender.start()
        if sys.version_info[:2] == (3, 12):
            self._sender.tried.wait(FIRST_TRY_S)
        if config:
            self.log_config(config)

    # ---- logging ---------------------------------------------------------------------------------

    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:  # noqa: FBT001, FBT002 - the signature that W&B's and the seed's users know
        """Record ``metrics`` as they are now.

        Args:
            metrics: names and values: numbers, texts, and arrays or tensors of one element.
            step: the training step; None counts on from the last one.
            commit: False keeps the row open for further calls with the same step.
        """
        if self._closed:
            self._count_late_call()
            return
        try:
            if (
                PLAIN.issuperset(map(type, metrics.values()))
                and (step is None or type(step) is int)
                and commit is True
            ):
                row = dict(metrics)
                self._rows.append((step, time_ns(), row, True))
                if len(self._rows) > self._staging.limit or len(row) > FAST_ROW_VALUES_MAX:
                    self._staging.make_room()
            else:
                self._log_checked(metrics, step, commit)
        except Exception as error:  # noqa: BLE001 - bad input is the user's code, and training must go on
            self._refusals.refuse("log()", f"a call raised {error!r}; it recorded nothing")

    def _log_checked(self, metrics: Mapping[Any, Any], step: Any, commit: Any) -> None:
        """The general path: snapshot each value, weigh the row exactly."""
        at = None if step is None else _step_number(step)
        row = snapshot(metrics, self._refusals)
        deferred = False
        weight = len(row)
        for value in row.values():
            if isinstance(value, str):
                weight += 4 * len(value) // VALUE_BYTES
            elif not isinstance(value, (float, int)):
                deferred = True
        self._rows.append((at, time_ns(), HeavyRow(row, weight, deferred=deferred), bool(commit)))
        self._staging.make_room()

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Merge ``config`` into the run's configuration; what is not JSON becomes a text."""
        if self._closed:
            self._count_late_call()
            return
        try:
            document = json.dumps(_json_object(config), default=str, allow_nan=True)
            document.encode()
        except Exception as error:  # noqa: BLE001 - a value's own conversion to text may raise anything
            self._refusals.refuse("config", f"it cannot be written as JSON ({error!r}); it is not recorded")
            return
        if len(document.encode()) > limits.CONFIG_MAX_BYTES:
            reason = (
                f"it has {len(document)} characters of JSON; {limits.CONFIG_MAX_BYTES} bytes may be recorded"
            )
            self._refusals.refuse("config", reason)
            return
        self._sender.inbox.put(LogConfig(document))

    # ---- the end ---------------------------------------------------------------------------------

    def finish(self, exit_code: int = 0, wait: str = "recorded", timeout: float = FINISH_TIMEOUT_S) -> None:
        """Send what is left and end this rank's part of the run; the second call does nothing.

        Args:
            exit_code: 0, or what the run failed with.
            wait: "recorded" until the daemon has everything durably, "delivered" until its backends
                have it too.
            timeout: how many seconds to wait at most; what is unacknowledged then is named in a warning.
        """
        with self._finish_lock:
            if self._closed:
                return
            self._closed = True
        if wait not in WAITS:
            logger.warning("finish(wait=%r): it is one of %s; waiting until recorded", wait, WAITS)
        timeout = _bounded_seconds(timeout)
        deadline = time.monotonic() + timeout
        self._sender.inbox.put(Finish(_exit_code(exit_code), wait == "delivered", deadline))
        self._sender.ended.wait(timeout + JOIN_GRACE_S)
        if not self._sender.finished:
            self._warn_unfinished(wait, timeout)

    def _warn_unfinished(self, wait: str, timeout: float) -> None:
        status = self.status()
        missing = status.buffered_points + status.unacknowledged_points
        logger.warning(
            "finish(wait=%r) ended after %.0f s; %d values are not acknowledged by the daemon%s",
            wait, timeout, missing, f" ({status.problem})" if status.problem else "",
        )  # fmt: skip

    def _finish_at_exit(self) -> None:
        failed = getattr(sys, "last_exc", None) is not None or getattr(sys, "last_type", None) is not None
        self.finish(1 if failed else 0, timeout=self._settings.exit_timeout_s)

    def __enter__(self) -> Tracker:  # noqa: PYI034 - typing.Self is newer than Python 3.10
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.finish(_exit_code_of(error))

    # ---- what it knows ---------------------------------------------------------------------------

    @property
    def run_id(self) -> str | None:
        """The run's id, which the daemon tells; waits up to ``handle_timeout`` for it, then None."""
        return self._sender.run.run_id if self._wait_for_run() and self._sender.run else None

    @property
    def attempt(self) -> int | None:
        """Which incarnation of the run this is, from 1; waits up to ``handle_timeout``, then None."""
        return self._sender.run.attempt if self._wait_for_run() and self._sender.run else None

    def _wait_for_run(self) -> bool:
        if self._inert:
            return self._sender.run is not None
        if self._sender.welcomed.wait(self._settings.handle_timeout_s):
            return True
        seconds = self._settings.handle_timeout_s
        self._refusals.warn_once("run_id", f"the daemon did not answer within {seconds:.0f} s; it is None")
        return False

    def status(self) -> TrackerStatus:
        """This process's own state: what is buffered, acknowledged and dropped."""
        if self._inert:
            return TrackerStatus()
        sender, held = self._sender, self._sender.intake.held
        late = self._count_late_rows()
        run = sender.run
        return TrackerStatus(
            state=self._state(),
            run_id=run.run_id if run else None,
            attempt=run.attempt if run else None,
            buffered_points=self._staging.count_points() + sender.intake.blocked_points,
            unacknowledged_points=held.held_points,
            unacknowledged_batches=held.held_batches,
            unacknowledged_bytes=held.held_bytes,
            acknowledged_sequence=held.acknowledged,
            dropped_points=self._staging.dropped_points + held.lost_points,
            refused_values=self._refusals.count,
            calls_after_finish=late,
            connections=sender.connections,
            problem=sender.problem,
        )

    def _state(self) -> str:
        sender = self._sender
        if sender.ended.is_set():
            return "finished" if sender.finished else "unfinished"
        if sender.connected:
            return "connected"
        return "disconnected" if sender.connections else "connecting"

    def wait_until_admitted(self) -> None:
        """Wait for the daemon's first answer.

        Raises:
            DaemonRefused: it refused this rank.
            EndpointError: there was no answer within ``handle_timeout``.
        """
        self._sender.answered.wait(self._settings.handle_timeout_s)
        if self._sender.welcomed.is_set():
            return
        kind = DaemonRefused if self._sender.answered.is_set() else EndpointError
        problem = self._sender.problem or f"{self._settings.source}: no answer"
        self.finish(1, timeout=0)
        raise kind(problem)

    # ---- after the end, and after a fork ---------------------------------------------------------

    def _count_late_call(self) -> None:
        if self._inert:
            return
        with self._finish_lock:
            self._calls_after_finish += 1
        self._refusals.warn_once("log()", "called after finish(); it records nothing any more")

    def _count_late_rows(self) -> int:
        # A call that had begun when finish() was called may have added its row after the last drain.
        if self._sender.ended.is_set() and self._sender.finished:
            late = self._staging.drop_rows()
            with self._finish_lock:
                self._calls_after_finish += late
        return self._calls_after_finish

    def _wake_sender(self) -> None:
        self._sender.wake()

    def _make_inert(self) -> None:
        self._closed = True
        self._inert = True


class NullTracker(Tracker):
    """Takes every call of a tracker and does nothing: for ``backends="none"``."""

    def __init__(self) -> None:
        pass

    def log(self, metrics: Mapping[str, Any], step: int | None = None, commit: bool = True) -> None:  # noqa: FBT001, FBT002 - as in Tracker
        """Do nothing."""

    def log_config(self, config: Mapping[str, Any]) -> None:
        """Do nothing."""

    def log_table(self, key: str, columns: Sequence[str], data: Sequence[Sequence[Any]]) -> None:
        """Do nothing."""

    def log_image(self, key: str, image_path: Any, caption: str | None = None) -> None:
        """Do nothing."""

    def log_artifacts(self, artifacts: Mapping[str, Any]) -> None:
        """Do nothing."""

    def watch(self, model: Any, **kwargs: Any) -> None:
        """Do nothing."""

    def finish(self, exit_code: int = 0, wait: str = "recorded", timeout: float = FINISH_TIMEOUT_S) -> None:
        """Do nothing."""

    def get_backend(self, name: str) -> None:
        """None: there is no backend."""

    @property
    def wandb_run(self) -> None:
        """None."""

    @property
    def mlflow_run(self) -> None:
        """None."""

    @property
    def run_id(self) -> None:
        """None: there is no run."""

    @property
    def attempt(self) -> None:
        """None: there is no run."""

    def status(self) -> TrackerStatus:
        """The status of a tracker that is disabled."""
        return TrackerStatus()


def setup_tracker(
    project_name: str | None = None,
    backends: str | Sequence[str] | None = None,
    config: Mapping[str, Any] | None = None,
    outdir: str | os.PathLike[str] | None = None,
    rank: int | None = None,
    run_id: str | None = None,
    endpoint: str | os.PathLike[str] | None = None,
    **kwargs: Any,
) -> Tracker:
    """Join the run, and return at once: connecting goes on in the background.

    Args:
        project_name: W&B's project, MLflow's experiment; from the environment or the script's name if None.
        backends: "wandb,mlflow,csv" or a list; "none" gives a :class:`NullTracker`; None lets the
            environment decide, and then the daemon.
        config: the run's configuration, a nested dict.
        outdir: where file backends write, on the daemon's host; relative to the working directory.
        rank: this process's rank; detected from the launcher if None.
        run_id: a run to resume or to name; else the daemon chooses.
        endpoint: "host:port", "unix:/path" or the path of an endpoint file; else TRACKER_ENDPOINT or
            TRACKER_ENDPOINT_FILE.
        **kwargs: ``name``, ``primary_rank``, ``record_ranks``, ``world_size``, ``local_rank``,
            ``launch_id``, ``token``, ``buffer_bytes``, ``handle_timeout`` and ``exit_timeout`` (seconds),
            ``strict`` (wait for the daemon and raise if it refuses). Others are warned about.

    Raises:
        SettingsError: a value cannot be used.
        EndpointError: no endpoint is configured, or (``strict``) no daemon answers.
        RankUnknown: several processes are evident and the rank is not.
        DaemonRefused: (``strict``) the daemon does not admit this rank.
    """
    wanted = backends_of(backends)
    if wanted == "none":
        return NullTracker()
    if _forked_from_tracker:
        logger.warning(
            "setup_tracker in a forked child of a process that has a tracker records nothing, since gRPC "
            "does not survive a fork; start this process with the 'spawn' method, or set up after forking"
        )
        return NullTracker()
    settings = read_settings(
        project_name=project_name, backends=wanted, outdir=outdir, rank=rank, run_id=run_id,
        endpoint=endpoint, options=kwargs,
    )  # fmt: skip
    for warning in settings.warnings:
        logger.warning("%s", warning)
    tracker = Tracker(settings, config)
    if settings.strict:
        tracker.wait_until_admitted()
    return tracker


def _introduce(settings: ClientSettings) -> Introduction:
    key = (settings.project, settings.name)
    with _ordinals_lock:
        ordinal = _ordinals.get(key, 0)
        _ordinals[key] = ordinal + 1
    return Introduction(
        stream_id=secrets.token_bytes(16),
        launch_key=_valid(settings.launch_key),
        project=_valid(settings.project),
        name=_valid(settings.name),
        ordinal=ordinal,
        run_id=_valid(settings.run_id),
        rank=settings.rank.rank,
        world_size=settings.rank.world_size or 0,
        local_rank=settings.rank.local_rank,
        rank_source=settings.rank.source,
        host=_valid(settings.host),
        pid=settings.pid,
        client_version=__version__,
        working_directory=_valid(settings.working_directory),
        backends=None if settings.backends is None else _valid(settings.backends),
        outdir=None if settings.outdir is None else _valid(settings.outdir),
        primary_rank=settings.primary_rank,
        record_ranks=settings.record_ranks,
    )


def _valid(text: str) -> str:
    """``text`` as UTF-8 can carry it; names of files may hold bytes that are none."""
    return text.encode("utf-8", "replace").decode()


def _step_number(step: Any) -> int:
    try:
        return operator.index(step)
    except TypeError:
        number = float(step)
        if number.is_integer():
            return int(number)
        raise


def _json_object(value: Any) -> Any:
    """``value`` with texts for keys, all the way down; as for ``json``, what is no container stays."""
    if isinstance(value, Mapping):
        return {str(key): _json_object(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_object(item) for item in value]
    return value


def _exit_code(code: Any) -> int:
    if isinstance(code, int):
        return max(-(2**31), min(2**31 - 1, int(code)))
    return 0 if code is None else 1


def _exit_code_of(error: BaseException | None) -> int:
    if isinstance(error, SystemExit):
        return _exit_code(error.code)
    return 0 if error is None else 1


def _bounded_seconds(timeout: Any) -> float:
    try:
        seconds = float(timeout)
    except (TypeError, ValueError, OverflowError):
        return FINISH_TIMEOUT_S
    return FINISH_TIMEOUT_S if math.isnan(seconds) else min(max(0.0, seconds), threading.TIMEOUT_MAX / 2)


def _finish_all() -> None:
    if _forked_from_tracker:
        return
    for tracker in tuple(_trackers):
        tracker._finish_at_exit()  # noqa: SLF001 - the same module's class


def _make_all_inert() -> None:
    global _forked_from_tracker  # noqa: PLW0603 - what a fork changes is the process itself
    for tracker in tuple(_trackers):
        _forked_from_tracker = True
        tracker._make_inert()  # noqa: SLF001 - the same module's class


atexit.register(_finish_all)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_make_all_inert)

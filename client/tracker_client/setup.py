"""``setup_tracker``: from arguments and the environment to a tracker."""

from __future__ import annotations

import logging
import os
from collections.abc import Sequence
from typing import Any

from tracker_client.inprocess.opening import open_tracker
from tracker_client.settings.reading import (
    backends_arguments,
    backends_of,
    is_inprocess,
    is_worker_of_rank,
    mark_as_rank,
    read_run_arguments,
    read_settings,
)
from tracker_client.trackers.null_tracker import NullTracker
from tracker_client.trackers.remote_tracker import RemoteTracker, is_forked_child
from tracker_client.trackers.tracker import Tracker

logger = logging.getLogger("tracker_client")


def setup_tracker(
    project_name: str | None = None,
    backends: str | Sequence[str] | None = None,
    config: Any = None,
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
        config: the run's configuration: a nested dict, a dataclass, an ``argparse.Namespace``, OmegaConf's
            containers, pydantic's or attrs' models …; values whose names are secrets' are masked.
        outdir: where file backends write, on the daemon's host; relative to the working directory.
        rank: this process's rank; detected from the launcher if None.
        run_id: a run to resume or to name; else the daemon chooses.
        endpoint: "host:port", "unix:/path" or the path of an endpoint file; else TRACKER_ENDPOINT or
            TRACKER_ENDPOINT_FILE. With none of these the launch has a daemon of its own: rank 0 starts it,
            and the others find it in ``outdir``, or in the working directory, which they must share.
            "inprocess" needs no daemon: the backends write from this process, and
            what they are given stays there (``wandb={...}`` is anything that ``wandb.init`` takes).
        **kwargs: ``name``, ``primary_rank``, ``record_ranks``, ``item_ranks``, ``world_size``,
            ``local_rank``, ``launch_id``, ``token``, ``buffer_bytes``, ``handle_timeout`` and
            ``exit_timeout`` (seconds), ``strict`` (wait for the daemon and raise if it refuses);
            ``aggregates``, ``step_axes``, ``summaries`` and ``thinning``, dicts from globs of metrics to what
            the daemon's settings of these names take, which come before the daemon's own. Options of
            backends: ``wandb={...}``, ``mlflow={...}`` or a dict of that name for any other backend that
            ``backends`` names; bare ones (``entity``, ``group``, ``job_type``, ``tags``, ``notes``, ``mode``,
            ``id``, ``resume``, ``experiment_name``, ``run_name``, ``description`` …) go to each backend that
            has them. Secrets and addresses are the daemon's and are left out; others are warned about.

    Raises:
        SettingsError: a value cannot be used.
        EndpointError: none is configured and no daemon can be started here, or (``strict``) none answers.
        RankUnknown: several processes are evident and the rank is not.
        DaemonRefused: (``strict``) the daemon does not admit this rank.
    """
    wanted = backends_of(backends)
    if wanted == "none":
        return NullTracker()
    if is_inprocess(endpoint):
        return open_tracker(
            wanted,
            read_run_arguments(project_name, config, outdir, rank, run_id, kwargs),
            backends_arguments(kwargs),
        )
    if _is_no_rank(rank):
        return NullTracker()
    settings = read_settings(
        project_name=project_name, backends=wanted, outdir=outdir, rank=rank, run_id=run_id,
        endpoint=endpoint, options=kwargs,
    )  # fmt: skip
    for warning in settings.warnings:
        logger.warning("%s", warning)
    mark_as_rank()
    tracker = RemoteTracker(settings, config)
    if settings.strict:
        tracker.wait_until_admitted()
    return tracker


def _is_no_rank(rank: int | None) -> bool:
    """Whether this process cannot be a rank, or is only a rank's worker; the user is told."""
    if is_forked_child():
        logger.warning(
            "setup_tracker in a forked child of a process that has a tracker records nothing, since gRPC "
            "does not survive a fork; start this process with the 'spawn' method, or set up after forking"
        )
        return True
    if rank is None and is_worker_of_rank():
        logger.warning(
            "setup_tracker in a worker that this rank has started records nothing: the rank itself has a "
            'tracker. Set up under `if __name__ == "__main__":`, or pass rank=... where the worker is a rank'
        )
        return True
    return False

"""``setup_tracker``: makes a tracker from its arguments and the environment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import Any

from tracker_client.inprocess.opening import open_tracker
from tracker_client.settings.reading import (
    ClientSettings,
    backends_arguments,
    backends_of,
    calls_of_parent,
    is_inprocess,
    mark_as_set_up,
    read_run_arguments,
    read_settings,
)
from tracker_client.trackers.null_tracker import NullTracker
from tracker_client.trackers.remote_tracker import RemoteTracker
from tracker_client.trackers.tracker import Tracker, calls_address, inert_copy
from tracker_client.values.printing import name_rank


def setup_tracker(
    project_name: str | None = None,
    backends: str | Sequence[str] | None = None,
    config: Any = None,
    outdir: str | os.PathLike[str] | None = None,
    rank: int | None = None,
    run_id: str | None = None,
    endpoint: str | os.PathLike[str] | None = None,
    run_key: str | None = None,
    **kwargs: Any,
) -> Tracker:
    """Join a run and return its tracker at once; the connection is made in the background.

    Args:
        project_name: W&B's project and MLflow's experiment. If None: WB_PROJECT, WANDB_PROJECT or
            WB_PROJECT_NAME, else the script's name.
        backends: a text such as "wandb,mlflow,csv", or a list of names; "none" returns a
            :class:`NullTracker`. If None: TRACKER_BACKENDS, EZPZ_TRACKER_BACKENDS or EZPZ_TRACKERS, else the
            daemon's setting ``backends``.
        config: the run's configuration: a nested dict, a dataclass, an ``argparse.Namespace``, a container of
            OmegaConf, a model of pydantic or attrs, or the like. Values with names of secrets are masked.
        outdir: the output directory, on the daemon's host; relative to this process's working directory. The
            run's files are in it, and an earlier run's are moved to ``runs``. If None: TRACKER_OUTDIR, else
            the daemon's setting ``outdir``, else ``./tracker-runs/<time>-<name>``.
        rank: this process's rank, from 0; found from the launcher if None.
        run_id: the id of a run to create or to resume. If None: TRACKER_RUN_ID, else the daemon chooses.
        endpoint: the daemon: "host:port", "unix:/path" or the path of an endpoint file. If None:
            TRACKER_ENDPOINT or TRACKER_ENDPOINT_FILE. Without any of these, rank 0 starts a daemon for the
            launch; the other ranks find it through ``outdir``, or the working directory, which they must
            share. "inprocess" needs no daemon: the backends write from this process, and their options stay
            in it (``wandb={...}`` takes any argument of ``wandb.init``).
        run_key: a text that tells several runs of one launch apart. Only needed if ranks make several
            trackers in different orders and with different names (see ``docs/runs.md``).
        **kwargs: further settings; an unknown one causes a warning.

            * Of run and rank: ``name``, ``primary_rank`` (default 0), ``record_ranks`` and ``item_ranks``
              ("0,8-15", "all" or a list), ``world_size``, ``local_rank``, ``launch_id``.
            * Of the client: ``token``, ``buffer_bytes`` (64 MiB), ``handle_timeout`` (10 s, for ids, URLs),
              ``exit_timeout`` (30 s, at exit without ``finish``), ``strict`` (True waits for the daemon).
            * Rules by metric, as dicts by glob: ``aggregates``, ``step_axes``, ``summaries``, ``thinning``.
              They win over the daemon's settings.
            * Options of backends: ``wandb={...}``, ``mlflow={...}`` or a dict named as another backend. Bare
              ones (``entity``, ``group``, ``job_type``, ``tags``, ``notes``, ``mode``, ``id``, ``resume``,
              ``experiment_name``, ``run_name``, ``description`` …) apply to each backend that has them.
              Secrets and addresses of services, which only the daemon sets, are left out with a warning.

    Returns:
        A tracker. It is a :class:`NullTracker` if no backend is wanted.

        A child process of a rank (a script of ``subprocess``, a worker of ``multiprocessing``) that calls
        ``setup_tracker`` without ``rank`` has a run of its own. If such a worker only imports the script's
        main module again, the call is the parent's. Its tracker there records nothing, and warns once.

    Raises:
        SettingsError: a value cannot be used.
        EndpointError: the endpoint is invalid; or none is configured, and no daemon can be started here; or,
            with ``strict``, no daemon answers.
        RankUnknown: several processes run, and the rank of this one cannot be found.
        DaemonRefused: with ``strict``, the daemon does not admit this rank.
    """
    return set_up(project_name, backends, config, outdir, rank, run_id, endpoint, run_key, kwargs)


def set_up(
    project_name: str | None,
    backends: str | Sequence[str] | None,
    config: Any,
    outdir: str | os.PathLike[str] | None,
    rank: int | None,
    run_id: str | None,
    endpoint: str | os.PathLike[str] | None,
    run_key: str | None,
    kwargs: Mapping[str, Any],
    *,
    default_outdir: str | None = None,
) -> Tracker:
    """Return the tracker for the arguments of :func:`setup_tracker`; raise as it does.

    ``default_outdir`` is the output directory if nobody names one; None for ``tracker-runs``.
    """
    wanted = backends_of(backends)
    if wanted == "none":
        return NullTracker()
    if (calls := calls_of_parent(rank)) is not None:
        return inert_copy(calls_address=calls)
    if is_inprocess(endpoint):
        run = read_run_arguments(project_name, config, outdir, rank, run_id, kwargs, default_outdir)
        name_rank(run.rank)
        return open_tracker(wanted, run, backends_arguments(kwargs))
    settings = read_settings(
        project_name=project_name, backends=wanted, outdir=outdir, rank=rank, run_id=run_id,
        run_key=run_key, endpoint=endpoint, options=kwargs, default_outdir=default_outdir,
    )  # fmt: skip
    return _connect(settings, config)


def _connect(settings: ClientSettings, config: Any) -> RemoteTracker:
    name_rank(settings.rank.rank)
    tracker = RemoteTracker(settings, config)
    mark_as_set_up(settings, calls_address(tracker))
    if settings.strict:
        tracker.wait_until_admitted()
    return tracker

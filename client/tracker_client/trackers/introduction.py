"""The introduction of a tracker to the daemon, made once for each set-up."""

from __future__ import annotations

import os
import secrets
import threading

from tracker_client.identity.own_process import process_id
from tracker_client.settings.reading import ClientSettings
from tracker_client.transport.messages import Introduction
from tracker_client.values.arguments import valid_text
from tracker_client.version import __version__
from tracker_protocol.host_processes import ancestors, pid_space, start_ticks

_ordinals: dict[str, int] = {}
_ordinals_lock = threading.Lock()


def _renew_lock() -> None:
    global _ordinals_lock  # noqa: PLW0603 - another thread may have held it when this process was forked
    _ordinals_lock = threading.Lock()


os.register_at_fork(after_in_child=_renew_lock)


def introduce(settings: ClientSettings) -> Introduction:
    """Return the introduction of a new stream; count the set-ups of its launch and run key."""
    run_id = valid_text(_run_id(settings))
    return Introduction(
        stream_id=secrets.token_bytes(16),
        launch_key=valid_text(settings.launch_key),
        project=valid_text(settings.project),
        name=valid_text(settings.name),
        run_key=valid_text(settings.run_key),
        # A run id decides alone, so its set-up does not count among the others.
        ordinal=0 if run_id else _count(f"key {settings.launch_key} {settings.run_key}"),
        run_id=run_id,
        rank=settings.rank.rank,
        world_size=settings.rank.world_size or 0,
        local_rank=settings.rank.local_rank,
        rank_source=settings.rank.source,
        host=valid_text(settings.host),
        pid=settings.pid,
        client_version=__version__,
        working_directory=valid_text(settings.working_directory),
        backends=None if settings.backends is None else valid_text(settings.backends),
        outdir=settings.outdir,
        default_outdir=settings.default_outdir,
        primary_rank=settings.primary_rank,
        record_ranks=settings.record_ranks,
        backend_options=settings.backend_options,
        environment=settings.environment,
        restarts=settings.restarts,
        process_id=process_id(),
        agent=valid_text(settings.agent),
        item_ranks=settings.item_ranks,
        script_backends=tuple(map(valid_text, settings.script_classes.by_name)),
        metrics=settings.metrics,
        pid_space=pid_space(),
        start_ticks=start_ticks(settings.pid) or 0,
        ancestors=tuple(ancestors()),
    )


def _run_id(settings: ClientSettings) -> str:
    """Return the run id.

    A run id from the environment is shared by all trackers of the script. So each further tracker that uses
    it gets a run of its own: ``<run id>-2``, and so on.
    """
    if not settings.run_id or not settings.run_id_is_shared:
        return settings.run_id
    earlier = _count(f"id {settings.run_id}")
    return f"{settings.run_id}-{earlier + 1}" if earlier else settings.run_id


def _count(key: str) -> int:
    """Return the number of earlier set-ups with this key in this process."""
    with _ordinals_lock:
        count = _ordinals.get(key, 0)
        _ordinals[key] = count + 1
    return count

"""How a tracker introduces itself to the daemon: once for each set-up."""

from __future__ import annotations

import secrets
import threading

from tracker_client.settings import ClientSettings
from tracker_client.stream import Introduction
from tracker_client.version import __version__

_ordinals: dict[tuple[str, str], int] = {}
_ordinals_lock = threading.Lock()


def introduce(settings: ClientSettings) -> Introduction:
    """What the Hellos of a new stream say; counts the set-ups of its project and name."""
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

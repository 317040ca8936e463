"""Replay of an earlier session: its rows are logged again in the directory of a new session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import structlog

from tracker_daemon.backends.wandb.items import restored_values
from tracker_daemon.backends.wandb.rows import NO_STEP
from tracker_daemon.backends.wandb.session import WandbSession
from tracker_daemon.backends.wandb.transaction_log import LoggedConfig, TransactionLog

log = structlog.get_logger(__name__)


def replay(
    old_log: Path,
    session: WandbSession,
    committed_step: int,
    beat: Callable[[], None],
    *,
    beyond_committed: bool,
) -> int:
    """Log the configuration and the rows of ``old_log`` that the server lacks; return the last ``_step``.

    Rows above ``committed_step`` are skipped, unless ``beyond_committed``. ``beat`` is called between rows.
    """
    last_step = NO_STEP
    for logged in TransactionLog(old_log).read():
        if isinstance(logged, LoggedConfig):
            if logged.values:
                session.configure(logged.values)
            continue
        if logged.step > committed_step and not beyond_committed:
            continue
        last_step = logged.step
        if logged.step > session.last_remote_step:
            session.log(replace(logged, values=restored_values(logged.values, old_log.parent)))
        beat()
    if max(last_step, session.last_remote_step) < committed_step:
        log.error(
            "rows of the W&B run are missing: their directory is gone or damaged",
            directory=str(old_log.parent), from_step=last_step + 1, to_step=committed_step,
        )  # fmt: skip
    session.settle()
    return max(last_step, committed_step)

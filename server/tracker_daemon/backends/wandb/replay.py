"""Replay of an earlier session: its rows are logged again in the directory of a new session."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from importlib import import_module
from pathlib import Path

import structlog

from tracker_daemon.backends.wandb.items import StoredTable, restored_values
from tracker_daemon.backends.wandb.rows import NO_STEP
from tracker_daemon.backends.wandb.session import WandbSession
from tracker_daemon.backends.wandb.transaction_log import LoggedConfig, LoggedMetric, TransactionLog

_TABLE_TYPE = "run_table"

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
    tables = _tables_with_images(old_log)
    for logged in TransactionLog(old_log).read():
        if isinstance(logged, LoggedConfig):
            if logged.values:
                session.configure(logged.values)
            continue
        if isinstance(logged, LoggedMetric):
            session.define([logged])
            continue
        if logged.step > committed_step and not beyond_committed:
            continue
        last_step = logged.step
        if logged.step > session.last_remote_step:
            session.log(replace(logged, values=restored_values(logged.values, old_log.parent, tables)))
        beat()
    if max(last_step, session.last_remote_step) < committed_step:
        log.error(
            "rows of the W&B run are missing: their directory is gone or damaged",
            directory=str(old_log.parent), from_step=last_step + 1, to_step=committed_step,
        )  # fmt: skip
    session.settle()
    return max(last_step, committed_step)


def _tables_with_images(old_log: Path) -> dict[str, StoredTable]:
    """Return the tables that the SDK has stored with their images, by the client ids of their artifacts."""
    found: dict[str, StoredTable] = {}
    for payload in TransactionLog(old_log).payloads():
        if _TABLE_TYPE.encode() not in payload:
            continue
        record = import_module("wandb.proto.wandb_internal_pb2").Record.FromString(payload)
        if record.WhichOneof("record_type") == "artifact" and record.artifact.type == _TABLE_TYPE:
            contents = record.artifact.manifest.contents
            files = {str(one.path): Path(one.local_path) for one in contents if one.local_path}
            found[str(record.artifact.client_id)] = StoredTable(files)
    return found

"""Facts of the journal and the folds for the status, read on the recorder's thread."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import structlog

from tracker_daemon.aggregation.shared.fold import FoldSummary
from tracker_daemon.errors import JournalError
from tracker_daemon.journal.rows import Backlog
from tracker_daemon.journal.store import Journal
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.runs.registry import Registry

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class JournalFacts:
    """Facts that only the recorder's thread may read."""

    journal_bytes: int
    epoch: int
    folds: Mapping[str, FoldSummary]
    evicted_rows: Mapping[str, int]
    backlogs: Mapping[str, Backlog]
    gathered: frozenset[str]
    """The runs with gathered values for the root that are in no batch yet."""


def read_facts(
    journal: Journal, registry: Registry, summary_of: Callable[[LiveRun], FoldSummary]
) -> JournalFacts:
    """Read the folds and the journal; on the recorder's thread."""
    stored = [run for run in list(registry.runs.values()) if run.live.row_id]
    folds = {}
    for run in stored:
        try:
            folds[run.run_id] = summary_of(run.live)
        except JournalError as error:
            # An ended run that cannot be read must not hide the others.
            log.warning("a run cannot be read back", run_id=run.run_id, reason=str(error))
    evicted = {run.run_id: journal.reclaimed(run.live.row_id).events for run in stored}
    backlogs = {run.run_id: journal.backlog(run.live.row_id) for run in stored}
    gathered = frozenset(run.run_id for run in stored if run.live.view.to_forward)
    return JournalFacts(journal.size_bytes(), journal.epoch, folds, evicted, backlogs, gathered)

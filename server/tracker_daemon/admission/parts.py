"""The parts of a daemon that its role decides: a root records, a node's daemon forwards to a root.

:func:`tracker_daemon.admission.root_parts.build_root_parts` and
:func:`tracker_daemon.upstream.node_parts.build_node_parts` make them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from tracker_daemon.admission.delivery_answers import DeliveryAnswers
from tracker_daemon.admission.rank_admission import RankAdmission
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.delivery.run_delivery import RunDelivery
from tracker_daemon.journal.store import Journal
from tracker_daemon.recording.journal_calls import JournalCalls
from tracker_daemon.recording.recorder import Recorder
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run_endings import RunEndings
from tracker_daemon.runs.stored_runs import StoredRuns
from tracker_daemon.settings.definitions import Settings


@dataclass(frozen=True, slots=True)
class CommonParts:
    """The parts that every daemon has, and from which the others are built."""

    settings: Settings
    journal: Journal
    registry: Registry
    recorder: Recorder
    journal_calls: JournalCalls
    stored_runs: StoredRuns
    endings: RunEndings
    contents: Path
    """The directory of the content store."""


@dataclass(frozen=True, slots=True)
class RoleParts:
    """The parts that differ between a root and a node's daemon."""

    pumps: PumpSet
    delivery: RunDelivery
    admission: RankAdmission
    answers: DeliveryAnswers | None = None
    """Answers ranks that wait for deliveries; a node's daemon has the root's answers."""

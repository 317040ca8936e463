"""The parts of a root: pumps to real backends, and an admission that decides about ranks itself."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from tracker_daemon.admission.delivery_answers import DeliveryAnswers
from tracker_daemon.admission.parts import CommonParts, RoleParts
from tracker_daemon.admission.root_admission import RootAdmission
from tracker_daemon.admission.script_backends import ScriptBackends
from tracker_daemon.admission.user_notices import UserNotices
from tracker_daemon.backends.base import RunDescription
from tracker_daemon.backends.registry import known
from tracker_daemon.backends.third_party.script_link import ScriptLinks
from tracker_daemon.delivery.lane import OnLocated
from tracker_daemon.delivery.locations import note_location
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.delivery.run_delivery import RunDelivery


def build_root_parts(
    common: CommonParts, on_located: OnLocated, print_line: Callable[[str], None] | None
) -> RoleParts:
    """Build the pumps, the delivery and the admission of a root."""
    links = ScriptLinks()
    pumps = PumpSet(common.journal_calls.wait, links, partial(_note_location, on_located))
    delivery = RunDelivery(
        pumps, common.registry, common.journal_calls.run, lambda: common.journal.epoch, common.contents,
        common.journal.directory,
    )  # fmt: skip
    script_backends = ScriptBackends(links, pumps, common.registry, common.settings.partial_after_s)
    answers = DeliveryAnswers(delivery, pumps, common.recorder, common.journal_calls.run)
    admission = RootAdmission(
        common.settings, common.registry, common.recorder, pumps, delivery, script_backends,
        frozenset(known()), common.stored_runs, common.endings,
        answers, UserNotices(common.registry, print_line),
    )  # fmt: skip
    return RoleParts(pumps, delivery, admission, answers)


def _note_location(
    on_located: OnLocated, run: RunDescription, backend: str, location: str, handles: Mapping[str, str]
) -> None:
    """Note where a backend records a run, also in the run's directory."""
    on_located(run, backend, location, handles)
    note_location(run, backend, location, handles)

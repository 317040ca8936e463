"""The parts of a node's daemon: pumps to the root, and an admission that asks the root about ranks."""

from __future__ import annotations

import asyncio
import hashlib
import os
import socket

from tracker_daemon.admission.parts import CommonParts, RoleParts
from tracker_daemon.delivery.lane import OnLocated
from tracker_daemon.delivery.pump_set import PumpSet
from tracker_daemon.delivery.run_delivery import RunDelivery
from tracker_daemon.upstream.forwarded_runs import ForwardedRuns
from tracker_daemon.upstream.forwarder import Forwarder
from tracker_daemon.upstream.node_admission import NodeAdmission
from tracker_daemon.upstream.root import Root, root_source
from tracker_daemon.upstream.root_link import ThisNode


def build_node_parts(
    common: CommonParts, on_located: OnLocated, loop: asyncio.AbstractEventLoop
) -> RoleParts:
    """Build the pumps, the delivery and the admission of a node's daemon.

    Raises:
        SettingsError: the setting ``upstream`` names no daemon's endpoint.
    """
    root = Root(root_source(common.settings))
    node = ThisNode(_node_id(common.journal.token), socket.gethostname(), os.getpid())
    runs = ForwardedRuns(common.journal, common.registry, common.recorder, common.contents, root, node, loop)
    pumps = PumpSet(common.journal_calls.wait, on_located=on_located, open_lane=runs.open_lane)
    delivery = RunDelivery(
        pumps, common.registry, common.journal_calls.run, lambda: common.journal.epoch, common.contents
    )
    admission = NodeAdmission(
        common.settings, common.registry, common.recorder, delivery, common.stored_runs, common.endings,
        Forwarder(runs, pumps), root, node, common.journal.directory,
    )  # fmt: skip
    return RoleParts(pumps, delivery, admission)


def _node_id(token: str) -> bytes:
    """Return a 16-byte id of the journal, derived from its token without disclosing it."""
    return hashlib.sha256(b"node\0" + token.encode()).digest()[:16]

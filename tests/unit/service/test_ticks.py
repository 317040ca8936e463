"""The recorder's reports: the content store no longer expects the contents of a journalled item."""

from __future__ import annotations

import asyncio
import hashlib

import pytest

from tests.support.ingest.rig import RULES
from tracker_daemon.aggregation.values.batch import DecodedBatch, NodeReport
from tracker_daemon.aggregation.values.item import Content, Item
from tracker_daemon.contents.store import ContentStore
from tracker_daemon.journal.event import EventKind
from tracker_daemon.recording.live_run import LiveRun
from tracker_daemon.recording.recorder import Submission
from tracker_daemon.service.stop_request import StopRequest
from tracker_daemon.service.ticks import Ticks

DATA = b"some weights"
DIGEST = hashlib.sha256(DATA).hexdigest()
RANKS = DecodedBatch(items=(Item("artifact", "model", 0, 0, "{}", contents=(Content(DIGEST, 12, "w"),)),))
NODES = DecodedBatch(forwarded=NodeReport(((b"r" * 16, RANKS),), (), (), (), ()))


@pytest.mark.parametrize("decoded", [RANKS, NODES], ids=["a rank's batch", "a node's batch"])
def test_contents_of_a_journalled_item_are_expected_no_more(tmp_path, decoded):
    async def scenario():
        store = ContentStore(tmp_path)
        incoming = store.receive(DIGEST, len(DATA))
        incoming.open()
        incoming.write(DATA)
        incoming.complete()
        assert store.unexpected() == frozenset()
        ticks = Ticks(asyncio.get_running_loop(), store, StopRequest(1.0))
        run = LiveRun("run", RULES, 0)
        ticks.report_tick([run], [Submission(run, EventKind.BATCH, b"s", 1, b"", decoded)])
        assert store.unexpected() == {DIGEST}

    asyncio.run(scenario())

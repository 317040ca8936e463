"""The first connection of a rank: at once, or spread with those of the other ranks."""

from __future__ import annotations

import pytest

from tracker_client.sending.batch_builder import BatchBuilder
from tracker_client.sending.link import Link
from tracker_client.sending.published import Published
from tracker_client.settings.reading import read_settings
from tracker_client.staging.buffer import StagingBuffer
from tracker_client.trackers.introduction import introduce
from tracker_client.values.refusals import Refusals
from tracker_protocol import limits

WORLD = 4_000
SPREAD_S = WORLD * limits.CONNECT_JITTER_PER_RANK_S


def first_due_s(rank: int, **options: int) -> float:
    """The wait of a rank before its first connection."""
    settings = read_settings(
        rank=rank, options={"world_size": WORLD, **options}, environ={"TRACKER_ENDPOINT": "h:1"}, modules={}
    )
    batches = BatchBuilder(StagingBuffer(1 << 20, lambda: None), Refusals(), 1 << 20)
    link = Link(settings, introduce(settings), batches, lambda *_: None, Published(), lambda *_: None)
    link.begin(0.0)
    return link.deadline


@pytest.mark.parametrize(("primary", "other"), [({}, 1), ({"primary_rank": 7}, 0)])
def test_the_first_connections_of_a_large_job_are_spread_but_for_the_primary_rank_s(primary, other):
    assert first_due_s(primary.get("primary_rank", 0), **primary) == 0.0
    waits = [first_due_s(other, **primary) for _ in range(20)]
    assert 0.5 * SPREAD_S < max(waits) <= SPREAD_S
    assert len(set(waits)) == 20

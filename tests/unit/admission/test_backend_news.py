"""News of backends: the primary rank's user learns once what a backend cannot store."""

from __future__ import annotations

from types import SimpleNamespace

from tracker_daemon.admission.backend_news import send_backend_news
from tracker_daemon.delivery.health import BackendHealth, DeliveryState


class Session:
    """A session of a rank that keeps its notices."""

    def __init__(self, rank):
        live, options = SimpleNamespace(row_id=1), SimpleNamespace(primary_rank=0)
        run = SimpleNamespace(live=live, options=options, script_backends={"mine"})
        self.stream = SimpleNamespace(rank=rank, run=run, notices_sent=set())
        self.asked_handles = {}
        self.notices = []

    def send_notice(self, text):
        self.notices.append(text)


class Pumps:
    """Backends of which one sets something aside."""

    reason = "W&B does not accept the image 'x': it is broken"

    def unusable(self, run):
        return {}

    def health(self, run):
        reasons = {"csv": "", "wandb": self.reason, "mine": "it raised"}
        return {
            name: BackendHealth(name, DeliveryState.HEALTHY, "", 1, 1, 0, None, reason)
            for name, reason in reasons.items()
        }


def test_the_first_part_that_a_backend_cannot_store_is_told_to_the_primary_rank_once():
    primary, other, pumps = Session(0), Session(1), Pumps()
    for reason in (pumps.reason, "another one"):
        pumps.reason = reason
        send_backend_news(primary, pumps)
        send_backend_news(other, pumps)
    assert other.notices == []
    (told,) = primary.notices
    assert told.startswith(
        "wandb cannot store a part of the run, and stores the rest: W&B does not accept the image 'x'"
    )

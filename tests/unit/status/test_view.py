"""The status document as tables and as the lines of a run's end."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from tracker_daemon.errors import EndpointError
from tracker_daemon.status import document as status_document
from tracker_daemon.status import view as status_view

RANK = {
    "rank": 0,
    "host": "node1",
    "pid": 100,
    "state": "live",
    "last_step": 41,
    "next_sequence": 8,
    "last_seen_s": 0.4,
    "exit_code": None,
    "dropped_points": 0,
}
RUN: dict[str, Any] = {
    "run_id": "r-1",
    "name": "digits",
    "project": "examples",
    "status": "RUNNING",
    "reason": None,
    "attempt": 2,
    "outdir": "/out",
    "directory": "/out/runs/r-1",
    "created": "2026-01-02T03:04:05.000+00:00",
    "ended": None,
    "world_size": 2,
    "primary_rank": 0,
    "ranks": [
        RANK,
        RANK | {"rank": 1, "host": "node2", "state": "lost", "last_seen_s": 75.0, "exit_code": 137},
    ],
    "metrics": 12,
    "books": {
        "received": 24_000,
        "folded": 23_990,
        "open": 4,
        "late": 6,
        "rejected": 0,
        "duplicates": 0,
        "gap_points": 0,
        "evicted_rows": 0,
        "dropped_points": 3,
    },
    "records": {"emitted": 1200},
    "backends": [
        {
            "name": "csv",
            "state": "healthy",
            "reason": None,
            "delivered": 1200,
            "pending": 0,
            "set_aside": 0,
            "location": "/out/metrics.csv",
        },
        {
            "name": "wandb",
            "state": "paused",
            "reason": "no key [set one]",
            "delivered": 0,
            "pending": 1199,
            "set_aside": 1,
            "location": None,
        },
    ],
    "events": [{"time": "2026-01-02T03:05:00.000+00:00", "text": "rank 1 on node2 is lost at step 41"}],
}
DAEMON = {
    "version": "0.1.0", "pid": 99, "host": "node1", "uptime_s": 3725.0, "state_dir": "/out/.tracker",
    "endpoints": ["127.0.0.1:4711"], "journal_bytes": 3 * 1024 * 1024, "epoch": 1, "draining": False,
}  # fmt: skip


FORWARDED = RUN | {
    "forwarded": True,
    "metrics": 1,
    "records": {"emitted": 42},
    "ranks": [RANK],
    "backends": [
        {
            "name": "upstream", "unit": "batches", "state": "retrying", "reason": "cannot be reached",
            "delivered": 40, "pending": 2, "set_aside": 0, "location": "login:4711",
        },
    ],
}  # fmt: skip


def node(host: str, state: str = "live") -> dict[str, Any]:
    return {"host": host, "pid": 7, "state": state, "next_sequence": 3, "last_seen_s": 0.1}


def document(*runs: dict[str, Any], **daemon: Any) -> status_document.StatusDocument:
    return status_document.decode(json.dumps({"daemon": DAEMON | daemon, "runs": runs}))


def rendered(shown: status_document.StatusDocument) -> str:
    console = Console(file=io.StringIO(), width=200, color_system=None)
    console.print(status_view.render(shown))
    return console.file.getvalue()  # type: ignore[attr-defined]


def test_the_tables_show_each_part_of_the_document() -> None:
    text = rendered(document(RUN))
    for part in (
        "pid 99 on node1", "up 1 h 02 min", "journal 3.0 MiB in /out/.tracker", "127.0.0.1:4711",
        "digits", "examples", "r-1", "attempt 2", "RUNNING", "12 metrics, 1,200 records in /out/runs/r-1",
        "24,000 values received", "6 late", "3 dropped by clients",
        "node2", "lost", "1 min 15 s ago", "137",
        "csv", "healthy", "/out/metrics.csv", "wandb is paused: no key [set one]", "1,199",
        "rank 1 on node2 is lost at step 41",
    ):  # fmt: skip
        assert part in text, part
    assert "rejected" not in text, "troubles that are none are left out"
    assert "epoch" not in text
    assert "draining" not in text


def test_on_a_narrow_terminal_neither_a_reason_nor_a_place_is_cut_off() -> None:
    reason = "https://a-host-with-a-long-name.example:5000 does not take the key; set MLFLOW_TRACKING_TOKEN"
    place = "https://a-host-with-a-long-name.example:5000/#/experiments/3/runs/0123456789abcdef"
    backend = {"name": "mlflow", "state": "paused", "reason": reason, "location": place}
    console = Console(file=io.StringIO(), width=70, color_system=None)
    console.print(status_view.render(document(RUN | {"backends": [backend]})))
    text = console.file.getvalue()  # type: ignore[attr-defined]
    assert "…" not in text
    assert reason.replace(" ", "") in "".join(text.split())
    assert place in "".join(text.split())


def test_a_daemon_without_runs_says_so() -> None:
    assert "no rank has connected" in rendered(document())


def test_a_draining_daemon_in_a_later_epoch_says_so() -> None:
    text = rendered(document(draining=True, epoch=3))
    assert "draining" in text
    assert "epoch 3" in text


def test_of_many_ranks_those_in_trouble_are_all_shown() -> None:
    ranks = [RANK | {"rank": rank, "host": f"node{rank}."} for rank in range(1000)]
    for rank in (17, 500, 999):
        ranks[rank] = ranks[rank] | {"state": "disconnected"}
    text = rendered(document(RUN | {"ranks": ranks}))
    assert all(f"node{rank}." in text for rank in (0, 17, 500, 999))
    assert "node400." not in text
    assert f"{997 - status_view.RANKS_SHOWN_MAX} more in good order" in text


def test_ranks_that_have_not_come_are_named_and_where_they_are_many_counted() -> None:
    few = rendered(document(RUN | {"ranks": [RANK, {"rank": 1, "state": "expected"}]}))
    assert "expected" in few
    many = [{"rank": rank, "state": "expected"} for rank in range(1, 1000)]
    text = rendered(document(RUN | {"ranks": [RANK, *many]}))
    assert f"{999 - status_view.RANKS_SHOWN_MAX} more expected" in text


def test_names_are_shown_as_they_are_and_not_taken_for_markup() -> None:
    text = rendered(document(RUN | {"name": "[bold]x[/bold]", "ranks": [RANK | {"host": "[red]h"}]}))
    assert "[bold]x[/bold]" in text
    assert "[red]h" in text


def test_the_summary_has_a_line_for_each_run_each_backend_and_each_trouble() -> None:
    failed = RUN | {"status": "FAILED", "reason": "rank 1 was lost"}
    assert status_view.summary(document(failed)) == [
        "run examples/digits: FAILED (rank 1 was lost), 1,200 records of 12 metrics",
        "  csv: 1,200 delivered → /out/metrics.csv",
        "  wandb: 0 delivered, 1,199 pending, 1 set aside [paused: no key [set one]]",
        "  ranks: 1 lost",
        "  3 values were dropped by clients whose buffers were full",
    ]


def test_the_summary_names_the_place_of_the_reasons_for_rejected_values() -> None:
    rejected = RUN | {"status": "FINISHED", "books": RUN["books"] | {"rejected": 4}}
    lines = status_view.summary(document(rejected))
    assert "  4 values were rejected; last-status.json has the reasons" in lines


# ---- trees ---------------------------------------------------------------------------------------


def test_of_a_forwarded_run_batches_are_told_and_no_records() -> None:
    text = rendered(document(FORWARDED))
    assert "42 batches of 1 metric for the root" in text
    assert "/out" not in text.split("digits")[1], "it is recorded elsewhere"
    assert "upstream is retrying: cannot be reached" in text
    assert "forwarded by" not in text
    assert status_view.summary(document(FORWARDED | {"status": "FINISHED"})) == [
        "run examples/digits: FINISHED, 42 batches of 1 metric for the root",
        "  upstream: 40 delivered, 2 pending [retrying: cannot be reached] → login:4711",
        "  3 values were dropped by clients whose buffers were full",
    ]


def test_what_is_left_to_forward_is_counted_in_batches() -> None:
    assert status_view.backlog(document(FORWARDED)) == "2 batches to upstream"


def test_who_forwards_is_told_in_a_line_that_names_those_that_are_away() -> None:
    assert "forwarded by" not in rendered(document(RUN))
    together = rendered(document(RUN | {"nodes": [node("n1"), node("n2"), node("n2")]}))
    assert "forwarded by 2 nodes\n" in together.replace(" \n", "\n")
    apart = rendered(
        document(RUN | {"nodes": [node("n1"), node("n3", "disconnected"), node("n2", "disconnected")]})
    )
    assert "forwarded by 3 nodes, of which 2 not connected: n2, n3" in apart


def test_a_host_that_forwards_again_by_another_daemon_is_not_away() -> None:
    """Its first one's state directory was the node's own, and gone with the job before."""
    nodes = [node("n1", "disconnected"), node("n2", "disconnected"), node("n1")]
    lines = [line.rstrip() for line in rendered(document(RUN | {"nodes": nodes})).splitlines()]
    assert "forwarded by 2 nodes, of which 1 not connected: n2" in lines


def test_of_many_nodes_that_are_away_those_not_named_are_counted() -> None:
    nodes = [node(f"n{number:03}", "disconnected") for number in range(30)]
    text = " ".join(rendered(document(RUN | {"nodes": nodes})).split())
    named = ", ".join(f"n{number:03}" for number in range(status_view.NODES_NAMED))
    assert f"of which 30 not connected: {named} and {30 - status_view.NODES_NAMED} more" in text


@pytest.mark.parametrize("ended", ["2026-01-02T03:04:05.000+00:00", "2026-01-02T03:04:05Z", 1767323045.0])
def test_the_summary_leaves_out_runs_that_ended_before(ended: str | float) -> None:
    shown = document(RUN | {"ended": ended})
    assert status_view.summary(shown, since_s=1767323046.0) == []
    assert status_view.summary(shown, since_s=1767323044.0) != []
    assert status_view.summary(document(RUN), since_s=1767323046.0) != [], (
        "a run that goes on is not left out"
    )


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (5 * 1024**3, "5.0 GiB"), (3 * 1024**5, "3072.0 TiB")],
)
def test_sizes_have_a_binary_unit(count: int, text: str) -> None:
    assert status_view.size(count) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.4, "0 s"), (59.9, "59 s"), (60, "1 min 00 s"), (3600, "1 h 00 min"), (90_000, "1 d 01 h")],
)
def test_durations_have_two_units(seconds: float, text: str) -> None:
    assert status_view.duration(seconds) == text


def test_what_a_newer_daemon_adds_is_ignored_and_what_an_older_lacks_is_empty() -> None:
    shown = status_document.decode('{"daemon": {"invented": 1}, "runs": [{"run_id": "r", "invented": []}]}')
    assert shown.runs[0].books.received == 0
    assert "r" in rendered(shown)


@pytest.mark.parametrize("text", ["", "{", "[]", '{"daemon": {}, "runs": [{}]}'])
def test_what_is_no_status_is_told(text: str) -> None:
    with pytest.raises(EndpointError, match="status cannot be read"):
        status_document.decode(text)


def test_the_last_status_is_read_where_there_is_one(tmp_path: Path) -> None:
    assert status_document.read_last(tmp_path) is None
    (tmp_path / "last-status.json").write_text(json.dumps({"daemon": DAEMON}))
    found = status_document.read_last(tmp_path)
    assert found is not None
    assert found.daemon.pid == 99

"""The registry in a tree: streams of nodes' daemons, which are no ranks, and ranks that the root admits."""

from __future__ import annotations

from dataclasses import replace

import msgspec
import pytest

from tests.support.ingest.messages import hello, node_hello, stream_id
from tests.support.ingest.rig import DEFAULTS, RULES
from tracker_daemon.aggregation.shared.stream import NODE as NODE_RANK
from tracker_daemon.errors import ClientRefused, ProtocolError
from tracker_daemon.journal.rows import StreamRow
from tracker_daemon.runs.overdue_ranks import find_absent_ranks, find_silent_ranks
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run_options import RootBackends, RunOptions
from tracker_protocol import limits


class Connection:
    """Plays a session."""

    def __init__(self):
        self.superseded = 0
        self.told = []

    def supersede(self):
        self.superseded += 1

    def send_notice(self, text):
        self.told.append(text)


def connected(registry, message):
    """The stream of a Hello, admitted and connected."""
    stream = registry.admit(message).stream
    registry.connect(stream, Connection())
    return stream


@pytest.fixture
def forwarded(door):
    """A run of two ranks, the first of which has come, and its node's stream."""
    run = door.come(1, 0).stream.run
    return run, connected(door.registry, node_hello(run.run_id))


# ---- streams of nodes' daemons -------------------------------------------------------------------


def test_a_node_s_stream_is_the_run_s_and_no_rank(forwarded):
    run, node = forwarded
    assert run.streams[node.stream_id] is node
    assert (node.rank, node.is_node, node.host, node.pid) == (NODE_RANK, True, "host7", 7)
    assert node.source == "the daemon on host7"
    assert [stream.rank for stream in run.current()] == [0]
    assert all(rank >= 0 for _, rank in run.by_rank)
    assert run.missing() == [1]


def test_a_node_s_stream_is_admitted_as_new_once_and_found_again(door, forwarded):
    run, node = forwarded
    before = node.connection
    admission = door.registry.admit(node_hello(run.run_id))
    assert admission.stream is node
    assert not admission.new_stream
    assert before.superseded == 1


def test_a_node_s_stream_changes_neither_attempt_nor_world(door, forwarded):
    run, _ = forwarded
    admission = door.registry.admit(node_hello(run.run_id, stream=101, node=b"m" * 16))
    assert (admission.new_run, admission.new_stream, admission.new_attempt) == (False, True, False)
    assert (run.attempt, run.size()) == (1, 2)
    door.go(door.come(1, 0))
    assert run.is_disconnected(), "whoever forwards it is no rank that is connected"
    assert run.is_back() is False


def test_a_node_that_is_away_is_neither_lost_nor_absent(door, forwarded):
    run, node = forwarded
    door.registry.disconnect(node, node.connection)
    assert find_silent_ranks(door.registry.runs.values(), 0.0) == {}
    assert find_absent_ranks(door.registry.runs.values(), 0.0) == {run: [1]}


def test_a_node_s_stream_has_no_rival_and_is_none(door, forwarded):
    run, node = forwarded
    assert node.may_return()
    assert door.registry.rivals(node_hello(run.run_id)) == []
    assert door.registry.rivals(node_hello(run.run_id, stream=101, node=b"m" * 16)) == []
    (rival,) = door.registry.rivals(hello(2, 0))
    assert rival.rank == 0
    # Another number of ranks: whoever may still return is asked first, and that is no node.
    door.go(door.come(1, 0))
    assert [stream.rank for stream in door.registry.rivals(hello(3, 2, world=4))] == [0]


def test_a_node_claims_no_rank_though_its_hello_has_none(door):
    """It has no launch either: what a run without any of these is found by."""
    run = door.come(1, 0, key="", project="").stream.run
    assert door.registry.rivals(node_hello(run.run_id)) == []


def test_a_node_s_stream_makes_a_run_with_connections_no_quiet_one(door, forwarded):
    run, node = forwarded
    door.go(door.come(1, 0))
    door.end(run)
    assert not run.is_quiet()
    assert door.registry.forget_ended(0, lambda _: True) == []
    door.registry.disconnect(node, node.connection)
    assert door.registry.forget_ended(0, lambda _: True) == [run]


def test_the_next_attempt_goes_on_with_the_same_node_s_stream(door, forwarded):
    run, node = forwarded
    door.go(door.come(1, 0))
    again = door.come(2, 0)
    assert again.stream.attempt == run.attempt == 2
    admission = door.registry.admit(node_hello(run.run_id))
    assert (admission.stream, admission.new_stream) == (node, False)
    assert [stream.rank for stream in run.current()] == [0]


def test_a_node_that_forwards_a_run_that_nobody_knows_is_refused_and_named(registry):
    with pytest.raises(ClientRefused, match=r"no run r-7, which the daemon on host7 forwards"):
        registry.admit(node_hello("r-7"))
    assert not registry.streams


NONSENSE = {
    "a short id": lambda told: setattr(told.node, "node_id", b"short"),
    "no run": lambda told: setattr(told.node, "run_id", ""),
    "a huge host": lambda told: setattr(told.node, "host", "h" * (limits.HELLO_TEXT_MAX_BYTES + 1)),
    "a null character": lambda told: setattr(told.node, "run_id", "r\0"),
    "a name twice": lambda told: told.names.extend(["a", "a"]),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_a_node_whose_hello_makes_no_sense_is_refused(door, nonsense):
    run = door.come(1, 0).stream.run
    message = node_hello(run.run_id)
    NONSENSE[nonsense](message)
    with pytest.raises(ProtocolError):
        door.registry.admit(message)
    assert len(run.streams) == 1


def test_nodes_streams_count_against_the_limit_of_streams(door, forwarded, monkeypatch):
    run, _ = forwarded
    monkeypatch.setattr(limits, "STREAMS_MAX", 2)
    with pytest.raises(ClientRefused, match="2 streams"):
        door.registry.admit(node_hello(run.run_id, stream=101))


def restored(run):
    """The registry of the next process, which has read ``run`` from the journal."""
    later = Registry(DEFAULTS, RULES)
    row = replace(
        run.row,
        id=1,
        attempt=run.attempt,
        status=run.live.view.status,
        options=msgspec.json.encode(run.options).decode(),
    )
    rows = [
        StreamRow(s.stream_id, 1, s.rank, s.attempt, s.next_sequence, s.host, s.pid, s.finished)
        for s in run.streams.values()
    ]
    return later, later.restore(row, rows)


def test_after_a_restart_a_node_s_stream_is_no_rank_either_and_goes_on_where_it_was(door, forwarded):
    run, node = forwarded
    node.next_sequence = 9
    later, again = restored(run)
    back = again.streams[node.stream_id]
    assert (back.is_node, back.next_sequence) == (True, 9)
    assert [stream.rank for stream in again.current()] == [0]
    again.live.view = replace(again.live.view, world_size=2)
    assert again.missing() == [1]
    assert [stream.rank for stream in later.rivals(hello(2, 0))] == [0]
    assert find_silent_ranks(later.runs.values(), 0.0) == {again: [0]}
    assert later.admit(node_hello(run.run_id)).stream is back


def test_a_forgotten_run_is_recalled_for_a_node_that_forwards_it(door, forwarded):
    run, node = forwarded
    door.go(door.come(1, 0))
    door.registry.disconnect(node, node.connection)
    door.end(run)
    door.registry.forget_ended(0, lambda _: True)
    assert door.registry.forgotten.row_id(node_hello(run.run_id)) == run.live.row_id
    assert door.registry.forgotten.row_id(node_hello(run.run_id, stream=101)) == run.live.row_id
    assert door.registry.forgotten.row_id(node_hello("another", stream=101)) is None


# ---- ranks that the root admits ------------------------------------------------------------------

OPTIONS = RunOptions("csv", "/out", 0, "", forwarding=RootBackends(("csv", "mine"), ()), described_by=0)


def decided(registry, message, run_id="r-1", attempt=1, options=OPTIONS):
    return registry.admit_decided(message, run_id, attempt, options)


def test_a_new_run_is_the_one_that_was_decided_on_and_is_only_forwarded(registry):
    admission = decided(registry, hello(1, 1, name="mine", ordinal=3), attempt=4)
    run, stream = admission.stream.run, admission.stream
    assert (admission.new_run, admission.new_stream, admission.new_attempt) == (True, True, True)
    assert not admission.reopened
    assert not admission.describes, "its options go into the journal with the run"
    assert registry.runs == {"r-1": run}
    assert (run.row.launch_key, run.row.project, run.row.name, run.row.ordinal) == (
        "launch", "project", "mine", 3,
    )  # fmt: skip
    assert (run.attempt, run.world_size, run.live.forwards) == (4, 2, True)
    assert (stream.rank, stream.attempt, stream.host, stream.pid) == (1, 4, "node1", 1001)
    assert msgspec.json.decode(run.row.options, type=RunOptions) == OPTIONS
    assert run.by_rank[4, 1] is stream


def test_a_run_without_a_name_is_called_as_the_root_calls_it(registry):
    run = decided(registry, hello(1)).stream.run
    assert run.row.name == "r-1"
    assert registry.predecessor(hello(2, 0)) is registry.streams[stream_id(1)]


def test_another_rank_of_a_known_run_joins_it(registry):
    first = decided(registry, hello(1, 0))
    second = decided(registry, hello(2, 1))
    assert second.stream.run is first.stream.run
    assert (second.new_run, second.new_stream, second.new_attempt, second.reopened) == (
        False, True, False, False,
    )  # fmt: skip


def test_only_the_root_opens_the_next_attempt(registry):
    first = decided(registry, hello(1, 0)).stream
    run = first.run
    later = decided(registry, hello(2, 0), attempt=3)
    assert later.new_attempt
    assert (run.attempt, later.stream.attempt) == (3, 3)
    assert list(run.current()) == [later.stream]
    # A rank whose admission took longer than another's still belongs where the root put it.
    earlier = decided(registry, hello(3, 1), attempt=2)
    assert not earlier.new_attempt
    assert (run.attempt, earlier.stream.attempt) == (3, 2)
    assert list(run.current()) == [later.stream]


def test_a_run_that_has_ended_is_reopened_by_a_rank_that_the_root_admits(door, registry):
    run = decided(registry, hello(1, 0)).stream.run
    door.end(run)
    admission = decided(registry, hello(2, 0), attempt=2)
    assert (admission.reopened, admission.new_run, admission.stream.run) == (True, False, run)
    assert run.reopening
    assert run.running, "though the journal does not say so yet"
    assert not decided(registry, hello(3, 1), attempt=2).reopened, "one is enough"


def test_the_classes_that_the_primary_rank_s_script_has_are_kept_when_it_comes(registry):
    fed = msgspec.structs.replace(OPTIONS, forwarding=RootBackends(("csv", "mine"), ("mine",)))
    run = decided(registry, hello(2, 1)).stream.run
    assert run.options.forwarding.script_backends == ()
    admission = decided(registry, hello(1, 0), options=fed)
    assert admission.describes, "the journal is to have it too"
    assert run.options.forwarding.script_backends == ("mine",)
    # Any other rank's answer has no classes, and takes nothing away.
    other = decided(registry, hello(3, 2, world=3))
    assert not other.describes
    assert run.options.forwarding.script_backends == ("mine",)


def test_what_the_primary_rank_s_admission_says_again_is_not_journalled_again(registry):
    run = decided(registry, hello(1, 0)).stream.run
    assert not decided(registry, hello(2, 0), attempt=2).describes
    assert run.options == OPTIONS


def test_a_rank_that_was_admitted_while_the_root_was_asked_again_is_the_one_that_it_is(registry):
    """Its connection broke meanwhile, and the process came once more before the root had answered."""
    first = decided(registry, hello(1, 0))
    connection = Connection()
    registry.connect(first.stream, connection)
    second = decided(registry, hello(1, 0))
    assert second.stream is first.stream
    assert not second.new_stream, "the journal takes a stream once"
    assert connection.superseded == 1


def test_after_a_restart_a_forwarded_run_is_one_and_a_known_rank_needs_no_root(registry):
    fed = msgspec.structs.replace(OPTIONS, forwarding=RootBackends(("csv", "mine"), ("mine",)))
    run = decided(registry, hello(1, 0), options=fed).stream.run
    later, again = restored(run)
    assert again.live.forwards
    assert again.options == fed
    admission = later.admit(hello(1, 0))
    assert (admission.stream.run, admission.new_stream) == (again, False)

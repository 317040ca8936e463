"""Who is who: which run a client joins, as which attempt, and who is refused."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from tests.support.ingest.messages import hello, stream_id
from tests.support.ingest.rig import DEFAULTS, RULES
from tracker_daemon.errors import ClientRefused, ProtocolError, SettingsError
from tracker_daemon.journal.rows import StreamRow
from tracker_daemon.runs.overdue_ranks import find_absent_ranks, find_silent_ranks, find_vanished_ranks
from tracker_daemon.runs.registry import Registry
from tracker_protocol import PROTOCOL_VERSION, limits
from tracker_protocol.v1 import tracker_pb2 as pb

# ---- identity ------------------------------------------------------------------------------------


def test_the_ranks_of_a_launch_meet_in_one_run(door):
    first, second = door.come(1, 0), door.come(2, 1)
    assert second.stream.run is first.stream.run
    assert (first.new_run, second.new_run) == (True, False)
    assert first.new_stream
    assert second.new_stream


def test_a_run_without_a_name_is_called_by_its_id(door):
    run = door.come(1).stream.run
    assert run.row.name == run.run_id
    assert door.come(2, key="other", name="mine").stream.run.row.name == "mine"


def test_a_run_that_has_ended_is_not_reopened_by_accident(door):
    first = door.come(1, 0)
    door.go(first)
    door.end(first.stream.run)
    second = door.come(2, 0)
    assert second.stream.run is not first.stream.run
    assert second.stream.attempt == 1
    # The second trial's other ranks join the second run.
    assert door.come(3, 1).stream.run is second.stream.run


def restored(run):
    """The registry of the next process, which has read ``run`` from the journal."""
    registry = Registry(DEFAULTS, RULES)
    row = replace(
        run.row, id=1, status=run.live.view.status, ended_ns=run.live.view.ended_ns, attempt=run.attempt
    )
    rows = [
        StreamRow(s.stream_id, 1, s.rank, s.attempt, s.next_sequence, s.host, s.pid, s.finished)
        for s in run.streams.values()
    ]
    return registry, registry.restore(row, rows)


@pytest.mark.parametrize("name", ["", "named"])
def test_after_a_restart_a_rank_that_comes_late_joins_its_launch(door, registry, name):
    run = door.come(1, 0, name=name).stream.run
    later, again = restored(run)
    admission = later.admit(hello(2, 1, name=name))
    assert not admission.new_run
    assert admission.stream.run is again
    assert admission.stream.attempt == 1


def test_after_a_restart_a_known_stream_goes_on_where_it_was(door, registry):
    stream = door.come(1, 0).stream
    stream.next_sequence = 17
    later, again = restored(stream.run)
    admission = later.admit(hello(1, 0))
    assert not admission.new_stream
    assert (admission.stream.run, admission.stream.next_sequence) == (again, 17)


# ---- attempts ------------------------------------------------------------------------------------


def test_a_rank_that_comes_again_opens_the_next_attempt_and_the_others_join_it(door):
    first, other = door.come(1, 0), door.come(2, 1)
    door.go(first)
    door.go(other)
    assert [door.come(3, 0).stream.attempt, door.come(4, 1).stream.attempt] == [2, 2]
    assert first.stream.run.attempt == 2


def test_a_resumed_run_opens_one_attempt_for_all_its_ranks(door):
    first = door.come(1, 0, run_id="mine")
    door.go(first)
    door.end(first.stream.run)
    # One that was not there before comes first; the journal has not seen any of them yet.
    again = [door.come(10 + rank, rank, world=3, run_id="mine") for rank in (2, 0, 1)]
    assert {admission.stream.run for admission in again} == {first.stream.run}
    assert [admission.stream.attempt for admission in again] == [2, 2, 2]
    assert [admission.reopened for admission in again] == [True, False, False]
    assert first.stream.run.running


def test_a_stream_of_an_ended_run_does_not_reopen_it(door):
    first = door.come(1, 0)
    door.go(first)
    door.end(first.stream.run, "FAILED")
    straggler = door.come(1, 0)
    assert not straggler.reopened
    assert straggler.stream.run is first.stream.run
    assert not first.stream.run.running


def test_the_same_process_takes_its_old_connections_place(door):
    admission = door.come(1, 0)
    old = admission.stream.connection
    again = door.come(1, 0)
    assert again.stream is admission.stream
    assert not again.new_stream
    assert old.superseded == 1
    assert door.registry.connections == 1
    door.registry.disconnect(again.stream, old)  # ends when its place is taken already
    assert again.stream.connection is not None
    assert door.registry.connections == 1


# ---- what makes no sense, and bounds -------------------------------------------------------------

NONSENSE = {
    "a short stream id": lambda h: setattr(h, "stream_id", b"short"),
    "no stream id": lambda h: setattr(h, "stream_id", b""),
    "a rank beyond the world": lambda h: setattr(h.process, "rank", 2),
    "a world too large": lambda h: setattr(h.process, "world_size", limits.WORLD_SIZE_MAX + 1),
    "a rank too large": lambda h: (
        setattr(h.process, "world_size", 0),
        setattr(h.process, "rank", limits.WORLD_SIZE_MAX),
    ),
    "an acknowledgement that cannot be": lambda h: setattr(h, "last_acknowledged", 2**64 - 1),
    "a name twice": lambda h: h.names.extend(["a", "a"]),
    "an empty name": lambda h: h.names.append(""),
    "too many names": lambda h: h.names.extend(map(str, range(limits.METRICS_PER_RUN_MAX + 1))),
    "a relative output directory": lambda h: setattr(h.options, "outdir", "out"),
    "a null character": lambda h: setattr(h.options, "outdir", "/out\0"),
    "a huge project": lambda h: setattr(h.launch, "project", "p" * (limits.HELLO_TEXT_MAX_BYTES + 1)),
    "options that are no JSON": lambda h: setattr(h.options, "backend_options", "{"),
}


@pytest.mark.parametrize("nonsense", NONSENSE)
def test_what_makes_no_sense_leaves_nothing_behind(door, nonsense):
    message = hello(1, 0)
    NONSENSE[nonsense](message)
    with pytest.raises(ProtocolError):
        door.registry.admit(message)
    assert not door.registry.runs
    assert not door.registry.streams
    assert door.come(1, 0).new_run


@pytest.mark.parametrize("options", [{"record_ranks": "8-1"}, {"backend_options": '{"wandb": {"key": "x"}}'}])
def test_refused_options_leave_nothing_behind(door, options):
    with pytest.raises(SettingsError):
        door.come(1, 0, options=options)
    assert not door.registry.runs
    assert door.come(1, 0).new_run


def test_only_connected_streams_count_against_their_limit(door, monkeypatch):
    monkeypatch.setattr(limits, "STREAMS_MAX", 2)
    for trial in range(5):
        both = [door.come(10 * trial + rank, rank) for rank in (0, 1)]
        with pytest.raises(ClientRefused, match="2 streams"):
            door.come(99, 0, key="other")
        for admission in both:
            door.go(admission)
        door.end(both[0].stream.run)
    assert len(door.registry.runs) == 5


def test_only_running_runs_count_against_their_limit(door, monkeypatch):
    monkeypatch.setattr(limits, "RUNS_LIVE_MAX", 2)
    runs = [door.come(number, 0, key=f"launch {number}").stream.run for number in (1, 2)]
    with pytest.raises(ClientRefused, match="2 live runs"):
        door.come(3, 0, key="launch 3")
    door.end(runs[0])
    assert door.come(3, 0, key="launch 3").new_run


# ---- who is gone ---------------------------------------------------------------------------------


def test_a_rank_without_contact_is_lost_once_and_again_after_it_was_back(door):
    admission = door.come(1, 0)
    run = admission.stream.run
    assert find_silent_ranks(door.registry.runs.values(), 0.0) == {}
    door.go(admission)
    assert find_silent_ranks(door.registry.runs.values(), 3600.0) == {}
    assert find_silent_ranks(door.registry.runs.values(), 0.0) == {run: [0]}
    assert find_silent_ranks(door.registry.runs.values(), 0.0) == {}
    door.go(door.come(1, 0))
    assert find_silent_ranks(door.registry.runs.values(), 0.0) == {run: [0]}


def test_a_rank_that_finished_or_whose_run_has_ended_is_not_lost(door):
    finished, other = door.come(1, 0), door.come(2, 0, key="other")
    finished.stream.finished = True
    door.end(other.stream.run)
    door.go(finished)
    door.go(other)
    assert find_silent_ranks(door.registry.runs.values(), 0.0) == {}


def test_ranks_that_never_came_are_absent_once(door):
    run = door.come(1, 1, world=4).stream.run
    assert find_absent_ranks(door.registry.runs.values(), 3600.0) == {}
    assert find_absent_ranks(door.registry.runs.values(), 0.0) == {run: [0, 2, 3]}
    assert find_absent_ranks(door.registry.runs.values(), 0.0) == {}


def test_an_unknown_world_misses_nobody(door):
    door.come(1, 1, world=0)
    assert find_absent_ranks(door.registry.runs.values(), 0.0) == {}


def test_each_attempt_waits_for_its_ranks_anew(door):
    first, other = door.come(1, 0), door.come(2, 1)
    run = first.stream.run
    assert find_absent_ranks(door.registry.runs.values(), 0.0) == {}
    run.waiting_since_s -= 1000.0
    for admission in (first, other):
        door.go(admission)
    door.come(3, 0)
    assert find_absent_ranks(door.registry.runs.values(), 500.0) == {}
    assert time.monotonic() - run.waiting_since_s < 500.0
    assert find_absent_ranks(door.registry.runs.values(), 0.0) == {run: [1]}


def test_after_a_restart_ranks_that_never_came_are_still_missed(door, registry):
    run = door.come(1, 0).stream.run
    later, again = restored(run)
    assert (
        find_absent_ranks(later.runs.values(), 0.0) == {}
    )  # the fold is not replayed yet, and nobody has said it again
    again.live.view = replace(again.live.view, world_size=2)
    assert find_absent_ranks(later.runs.values(), 0.0) == {again: [1]}
    later, again = restored(run)
    later.admit(hello(1, 0))
    assert find_absent_ranks(later.runs.values(), 0.0) == {again: [1]}


class Host:
    """Plays the host: whether launchers have ended, and processes are gone."""

    def __init__(self, *, launcher_gone=False, gone=False):
        self.launcher_gone, self.gone = launcher_gone, gone

    def is_here(self, place):
        return True

    def is_launcher_gone(self, place):
        return self.launcher_gone

    def is_gone(self, place):
        return self.gone


def absent(door, host=None):
    return find_absent_ranks(door.registry.runs.values(), 600.0, host)


def test_while_a_rank_lives_the_others_are_expected(door):
    run = door.come(1, 0, world=2).stream.run
    run.last_hello_s -= 100.0
    assert absent(door, Host(launcher_gone=True)) == {}


@pytest.mark.parametrize("how", ["finished", "lost"])
def test_once_all_that_came_have_ended_nobody_is_expected_some_seconds_after_the_last_hello(door, how):
    stream = door.come(1, 0, world=2).stream
    setattr(stream, how, True)
    assert absent(door, Host()) == {}
    stream.run.last_hello_s -= 14.0
    assert absent(door, Host()) == {}
    stream.run.last_hello_s -= 1.0
    assert absent(door, Host()) == {stream.run: [1]}


def test_once_all_that_came_have_ended_nobody_is_expected_of_a_launcher_that_has_ended(door):
    stream = door.come(1, 0, world=2).stream
    stream.finished = True
    assert absent(door, Host()) == {}
    assert absent(door, Host(launcher_gone=True)) == {stream.run: [1]}


def vanished(door, host):
    return find_vanished_ranks(door.registry.runs.values(), host)


def test_a_rank_is_lost_some_seconds_after_its_process_is_seen_gone(door):
    first = door.come(1, 0, world=2)
    stream = first.stream
    assert vanished(door, Host(gone=True)) == {}  # still connected
    door.go(first)
    assert vanished(door, Host()) == {}
    assert vanished(door, Host(gone=True)) == {}
    stream.gone_since_s -= 2.0
    assert vanished(door, Host(gone=True)) == {stream.run: [0]}
    assert stream.lost
    assert vanished(door, Host(gone=True)) == {}


def test_a_rank_whose_launcher_may_start_it_again_is_not_lost_so_soon(door):
    first = door.come(1, 0, world=2)
    door.go(first)
    first.stream.gone_since_s = time.monotonic() - 2.0
    runs, host = door.registry.runs.values(), Host(gone=True)
    assert find_vanished_ranks(runs, host, lambda stream: stream is first.stream) == {}
    assert find_vanished_ranks(runs, host, lambda stream: False) == {first.stream.run: [0]}


def test_a_rank_that_has_finished_does_not_vanish(door):
    first = door.come(1, 0)
    first.stream.finished = True
    door.go(first)
    assert vanished(door, Host(gone=True)) == {}
    assert first.stream.gone_since_s is None


# ---- runs that ended long ago --------------------------------------------------------------------


def ended_runs(door, count):
    runs = []
    for number in range(1, count + 1):
        admission = door.come(number, 0)
        door.go(admission)
        door.end(admission.stream.run, ended_ns=number)
        runs.append(admission.stream.run)
    return runs


def test_the_runs_that_ended_first_are_forgotten(door):
    runs = ended_runs(door, 5)
    live = door.come(100, 0).stream.run
    assert door.registry.forget_ended(2, lambda _: True) == runs[:3]
    assert set(door.registry.runs) == {run.run_id for run in (*runs[3:], live)}
    assert len(door.registry.streams) == 3
    assert door.registry.forget_ended(2, lambda _: True) == []


def test_a_run_that_is_not_delivered_or_has_a_straggler_is_kept(door):
    runs = ended_runs(door, 4)
    door.come(2, 0)
    assert door.registry.forget_ended(0, lambda run: run is not runs[0]) == runs[2:]


def test_a_forgotten_run_is_recalled_for_its_streams_and_its_id(door):
    first, second = ended_runs(door, 2)
    door.registry.forget_ended(0, lambda _: True)
    assert door.registry.forgotten.row_id(hello(1, 0)) == first.live.row_id
    assert door.registry.forgotten.row_id(hello(9, 0, run_id=second.run_id)) == second.live.row_id
    assert door.registry.forgotten.row_id(hello(9, 0)) is None
    live = door.come(100, 0).stream.run
    rows = [StreamRow(stream_id(1), 1, 0, 1, 5)]
    door.registry.restore(replace(first.row, id=first.live.row_id, status="FINISHED"), rows)
    assert door.registry.forgotten.row_id(hello(1, 0)) is None
    assert door.come(1, 0).stream.next_sequence == 5
    # The recalled run has the identity of the one that goes on, and must not take its ranks.
    assert door.come(101, 1).stream.run is live


# ---- nodes' daemons ------------------------------------------------------------------------------


def node_hello(stream, run_id):
    message = pb.Hello(stream_id=stream_id(stream), protocol_version=PROTOCOL_VERSION)
    message.node.CopyFrom(pb.Node(node_id=b"n" * 16, run_id=run_id, host="node", pid=1))
    return message


def test_a_stream_of_a_rank_is_never_a_node_s_nor_the_other_way_round(door, registry):
    run = door.come(1, 0).stream.run
    assert registry.admit(node_hello(2, run.run_id)).stream.is_node
    for message in (node_hello(1, run.run_id), hello(2, 0)):
        with pytest.raises(ProtocolError, match="cannot change its kind"):
            registry.admit(message)
    assert not registry.streams[hello(1).stream_id].connection.superseded

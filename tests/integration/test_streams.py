"""The wire, spoken by hand: what a hostile or unlucky rank may send, and what it gets for it."""

from __future__ import annotations

import queue
import resource
import struct
import threading
import time
import uuid
import zlib

import grpc
import pytest

from tests.support.waiting import wait_until
from tracker_protocol import PROTOCOL_VERSION, STATUS_METHOD, STREAM_METHOD, TOKEN_METADATA_KEY, limits
from tracker_protocol.v1 import tracker_pb2 as pb

PATIENCE_S = 30.0
QUICK = (
    "--backends", "csv", "--learn-wait-s", "0.2", "--flush-interval-s", "0.1",
)  # fmt: skip


def body(rows=None, names=(), finish=None, **fields):
    """``rows`` are {step: (values of metrics 0, 1, …)}; row i of a stream has step i.

    Unless ``flushed`` is given, the batch has everything that the rank has logged.
    """
    batch = pb.BatchBody(names=names, **{"flushed": True, **fields})
    if rows:
        width = len(next(iter(rows.values())))
        batch.blocks.add(
            keys=range(width),
            steps=struct.pack(f"<{len(rows)}q", *rows),
            times=struct.pack(f"<{len(rows)}q", *rows),
            rows=struct.pack(f"<{len(rows)}q", *rows),
            values=b"".join(struct.pack(f"<{width}d", *values) for values in rows.values()),
        )
    if finish is not None:
        batch.finish = finish
    return batch.SerializeToString()


class Wire:
    """One connection to a daemon; replies arrive in a queue, None when the call has ended."""

    def __init__(self, daemon):
        endpoint = daemon.endpoint
        self.channel = grpc.insecure_channel(
            endpoint["endpoint"],
            options=(("grpc.enable_http_proxy", 0), ("grpc.use_local_subchannel_pool", 1)),
        )
        self.metadata = ((TOKEN_METADATA_KEY, f"Bearer {endpoint['token']}"),)
        self.outgoing: queue.SimpleQueue = queue.SimpleQueue()
        self.incoming: queue.Queue = queue.Queue()
        self.acknowledged = 0
        call = self.channel.stream_stream(STREAM_METHOD, None, pb.DaemonMessage.FromString)
        self.call = call(iter(self.outgoing.get, None), metadata=self.metadata)
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        try:
            for message in self.call:
                self.incoming.put(message)
        except grpc.RpcError:
            pass  # the status says it
        finally:
            self.incoming.put(None)

    def send(self, **message):
        self.outgoing.put(pb.ClientMessage(**message).SerializeToString())

    def hello(self, rank=0, world=1, *, stream, names=(), acknowledged=0, **options):
        launch = pb.Launch(key="raw", project="streams", run_id=options.pop("run_id", ""))
        process = pb.Process(rank=rank, world_size=world, host="here", pid=rank + 1, rank_source="the test")
        self.send(
            hello=pb.Hello(
                protocol_version=options.pop("version", PROTOCOL_VERSION),
                stream_id=stream,
                names=names,
                launch=launch,
                process=process,
                last_acknowledged=acknowledged,
                options=pb.RunOptions(**options),
            )
        )

    def batch(self, sequence, content, crc=None):
        crc = zlib.crc32(content) if crc is None else crc
        self.send(batch=pb.Batch(sequence=sequence, crc32=crc, body=content))

    def gap(self, first, last, points):
        self.send(gap=pb.Gap(from_sequence=first, to_sequence=last, points=points))

    def heartbeat(self, flushed_through):
        self.send(heartbeat=pb.Heartbeat(flushed_through=flushed_through))

    def receive(self, kind):
        """The next message of a kind; those of other kinds are passed over."""
        while True:
            message = self.incoming.get(timeout=PATIENCE_S)
            assert message is not None, f"the stream ended: {self.call.code()} {self.call.details()}"
            if message.WhichOneof("message") == "acknowledgement":
                self.acknowledged = message.acknowledgement.sequence
            if message.WhichOneof("message") == kind:
                return getattr(message, kind)

    def wait_acknowledged(self, sequence):
        while self.receive("acknowledgement").sequence < sequence:
            pass

    def ended(self):
        """The status that the daemon ends the call with, and its words."""
        while self.incoming.get(timeout=PATIENCE_S) is not None:
            pass
        return self.call.code(), self.call.details()

    def finish(self, sequence, code=0):
        """The rank ends in good order."""
        self.batch(sequence, body(finish=code))
        self.wait_acknowledged(sequence)
        self.outgoing.put(None)
        assert self.ended()[0] is grpc.StatusCode.OK

    def close(self):
        self.outgoing.put(None)
        self.channel.close()


@pytest.fixture
def connect():
    """``connect(daemon, …)``: a connection whose Hello is answered; with ``welcome=False`` not waited for."""
    wires = []

    def make(daemon, rank=0, world=1, *, stream=None, welcome=True, **options):
        wire = Wire(daemon)
        wires.append(wire)
        wire.stream = stream or uuid.uuid4().bytes
        wire.hello(rank, world, stream=wire.stream, **options)
        if welcome:
            wire.welcome = wire.receive("welcome")
        return wire

    yield make
    for wire in wires:
        wire.close()


@pytest.fixture
def quick(make_daemon):
    return make_daemon(*QUICK)


def run_of(daemon, index=0):
    return daemon.status()["runs"][index]


def cell(row, column):
    return float(row[column]) if row.get(column) else None


# ---- acknowledgements ----------------------------------------------------------------------------


def test_what_is_acknowledged_survives_a_kill_at_once(quick, connect):
    stream, sequence = uuid.uuid4().bytes, 0
    for _ in range(3):
        wire = connect(quick, stream=stream, names=["loss"], acknowledged=sequence)
        assert wire.welcome.next_sequence == sequence + 1
        for _ in range(5):
            sequence += 1
            wire.batch(sequence, body({sequence: (1.0,)}))
        wire.wait_acknowledged(sequence)
        quick.kill()
        quick.start()
    wire = connect(quick, stream=stream, names=["loss"], acknowledged=sequence)
    assert wire.welcome.next_sequence == sequence + 1
    assert wire.welcome.next_step == sequence + 1
    wire.finish(sequence + 1)
    assert run_of(quick)["books"]["folded"] == sequence
    assert quick.status()["daemon"]["epoch"] == 1
    quick.stop()
    assert [int(row["step"]) for row in quick.rows()] == list(range(1, sequence + 1))


def test_duplicates_are_counted_and_acknowledged_again(quick, connect):
    wire = connect(quick, names=["loss"])
    for _ in range(3):
        wire.batch(1, body({0: (1.0,)}))
    wire.batch(2, body({1: (1.0,)}))
    wire.wait_acknowledged(2)
    wire.batch(1, body({0: (9.0,)}))
    assert wire.receive("acknowledgement").sequence == 2
    wire.finish(3)
    books = run_of(quick)["books"]
    assert (books["received"], books["folded"], books["duplicates"]) == (2, 2, 3)
    quick.stop()
    assert [cell(row, "loss") for row in quick.rows()] == [1.0, 1.0]


@pytest.mark.parametrize("when", ["in the midst", "as it drains"])
def test_a_journal_that_cannot_be_written_ends_the_daemon_and_acknowledges_nothing(quick, connect, when):
    wire = connect(quick, names=["loss"])
    wire.batch(1, body({0: (1.0,)}))
    wire.wait_acknowledged(1)
    # No file of the daemon may grow any more: what a full disk is like.
    resource.prlimit(quick.process.pid, resource.RLIMIT_FSIZE, (4096, 4096))
    if when == "in the midst":
        wire.batch(2, body({1: (1.0,)}))
    else:
        quick.process.terminate()
    assert wire.ended()[0] in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED)
    assert wire.acknowledged == 1
    code = quick.process.wait(PATIENCE_S)
    # While draining it may have had nothing more to write.
    assert code == 1 or (when == "as it drains" and code == 0)
    assert not quick.endpoint_file.exists()
    quick.start()
    again = connect(quick, stream=wire.stream, names=["loss"], acknowledged=1)
    assert again.welcome.next_sequence == 2
    again.batch(2, body({1: (2.0,)}))
    again.finish(3)
    quick.stop()
    assert [cell(row, "loss") for row in quick.rows()] == [1.0, 2.0]


# ---- disorder ------------------------------------------------------------------------------------


def test_a_sequence_that_skips_one_loses_the_stream_and_nothing_else(quick, connect):
    wire = connect(quick, names=["loss"])
    wire.batch(1, body({0: (1.0,)}))
    wire.batch(3, body({2: (1.0,)}))
    code, details = wire.ended()
    assert code is grpc.StatusCode.DATA_LOSS
    assert "batch 3 arrived when 2 was due" in details
    again = connect(quick, stream=wire.stream, names=["loss"])
    assert again.welcome.next_sequence == 2


def test_a_damaged_batch_is_not_journalled(quick, connect):
    wire = connect(quick, names=["loss"])
    content = body({0: (1.0,)})
    wire.batch(1, content, crc=zlib.crc32(content) ^ 1)
    assert wire.ended()[0] is grpc.StatusCode.DATA_LOSS
    again = connect(quick, stream=wire.stream, names=["loss"])
    assert again.welcome.next_sequence == 1
    again.batch(1, content)
    again.wait_acknowledged(1)
    assert run_of(quick)["books"]["received"] == 1


def test_a_body_that_cannot_be_decoded_is_rejected_and_the_stream_goes_on(quick, connect):
    wire = connect(quick)
    wire.batch(1, body({0: (1.0,)}, ["loss"]))
    wire.wait_acknowledged(1)
    # Brings a name, and a block that has no such metric: all of it is rejected, the name too.
    wire.batch(2, body({1: (1.0, 2.0, 3.0)}, ["accuracy"]))
    code, details = wire.ended()
    assert code is grpc.StatusCode.DATA_LOSS
    assert "batch 2 is rejected" in details
    again = connect(quick, stream=wire.stream, names=["loss", "accuracy"], acknowledged=1)
    assert again.welcome.next_sequence == 3
    again.batch(3, body({2: (1.0, 0.5)}))
    again.finish(4)
    books = run_of(quick)["books"]
    assert (books["received"], books["folded"]) == (3, 3)
    quick.stop()
    assert [cell(row, "accuracy") for row in quick.rows()] == [None, 0.5]


def test_bytes_that_are_no_message_end_their_own_stream_only(quick, connect):
    wire = connect(quick, 0, 2, names=["loss"])
    other = connect(quick, 1, 2, names=["loss"])
    wire.outgoing.put(b"\xff\xff\xff\xff")
    assert wire.ended()[0] is not grpc.StatusCode.OK
    other.batch(1, body({0: (1.0,)}))
    other.wait_acknowledged(1)
    assert connect(quick, 0, 2, stream=wire.stream).welcome.next_sequence == 1


def test_what_no_client_may_send_ends_its_stream_and_not_the_daemon(quick, connect):
    stream = uuid.uuid4().bytes
    impossible = {
        "a gap": lambda wire: wire.gap(1, 2**64 - 1, 0),
        "points": lambda wire: wire.gap(1, 1, 2**64 - 1),
        "a second hello": lambda wire: wire.hello(stream=stream),
        "nothing": lambda wire: wire.send(),
        "a sequence": lambda wire: (wire.gap(1, 2**62 - 2, 0), wire.batch(2**62 - 1, body({0: (1.0,)}))),
    }
    for what, send in impossible.items():
        wire = connect(quick, stream=stream, names=["loss"])
        assert wire.welcome.next_sequence == 1, what
        send(wire)
        code, details = wire.ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT, (what, details)
    assert connect(quick, stream=stream, names=["loss"]).welcome.next_sequence == 2**62 - 1
    assert quick.process.poll() is None


def test_a_gap_is_in_the_books_and_in_the_csv(quick, connect):
    wire = connect(quick, names=["loss"])
    wire.batch(1, body({0: (1.0,)}))
    wire.gap(2, 4, 30)
    wire.batch(5, body({9: (1.0,)}))
    wire.finish(6)
    run = run_of(quick)
    assert (run["books"]["gap_points"], run["books"]["dropped_points"]) == (30, 30)
    assert run["books"]["received"] == 2
    quick.stop()
    assert [cell(row, "tracker/dropped_points") for row in quick.rows()][-1] == 30.0


# ---- who may come, and how -----------------------------------------------------------------------


def test_the_same_stream_takes_its_old_connections_place(quick, connect):
    old = connect(quick, names=["loss"])
    old.batch(1, body({0: (1.0,)}))
    old.wait_acknowledged(1)
    new = connect(quick, stream=old.stream, names=["loss"], acknowledged=1)
    assert new.welcome.next_sequence == 2
    assert old.ended()[0] is grpc.StatusCode.OK
    new.batch(2, body({1: (2.0,)}))
    new.wait_acknowledged(2)
    (rank,) = run_of(quick)["ranks"]
    assert (rank["state"], rank["next_sequence"]) == ("live", 3)
    new.finish(3)
    assert run_of(quick)["status"] == "FINISHED"


def test_a_hello_brings_the_whole_dictionary_and_batches_only_what_is_beyond(quick, connect):
    wire = connect(quick, names=["a"])
    wire.batch(1, body({0: (1.0, 2.0)}, ["b"]))
    wire.wait_acknowledged(1)
    again = connect(quick, stream=wire.stream, names=["a", "b", "c"], acknowledged=1)
    again.batch(2, body({1: (1.0, 2.0, 3.0, 4.0)}, ["d"]))
    # A batch that was built for an earlier connection brings a name that the Hello has brought too.
    again.wait_acknowledged(2)
    third = connect(quick, stream=wire.stream, names=["a", "b"], acknowledged=2)
    third.batch(3, body({2: (1.0, 2.0, 3.0, 4.0)}, ["c", "d"]))
    third.finish(4)
    quick.stop()
    rows = [[cell(row, name) for name in "abcd"] for row in quick.rows()]
    assert rows == [[1.0, 2.0, None, None], [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 4.0]]


REFUSED = {
    "a short stream id": ({"stream": b"short"}, "16 bytes"),
    "a long stream id": ({"stream": bytes(17)}, "16 bytes"),
    "a rank beyond the world": ({"rank": 2, "world": 2}, "rank 2 does not exist among 2"),
    "a huge world": ({"world": 2**32 - 1}, "ranks end at"),
    "a newer protocol": ({"version": 99}, "protocol 99"),
    "an older protocol": ({"version": 1}, "a daemon of tracker-daemon 0.1.0 can serve this client"),
    "no protocol": ({"version": 0}, "protocol 0"),
    "a metric named twice": ({"names": ["x", "x"]}, "twice"),
    "a name too long": ({"names": ["x" * (limits.METRIC_NAME_MAX_BYTES + 1)]}, "metric name"),
    "a relative outdir": ({"outdir": "out"}, "not absolute"),
    "ranks that are none": ({"record_ranks": "9-1"}, "record_ranks"),
    "a daemon's secret": ({"backend_options": '{"wandb": {"api_key": "x"}}'}, "api_key"),
    "an impossible acknowledgement": ({"acknowledged": 2**64 - 1}, "acknowledged"),
}


def test_a_hello_that_makes_no_sense_is_refused_and_leaves_no_trace(quick, connect):
    for what, (options, words) in REFUSED.items():
        wire = connect(quick, welcome=False, **{"rank": 0, "world": 2, **options})
        code, details = wire.ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT, what
        assert words in details
        assert quick.status()["runs"] == [], what
    # The very same process may come once it makes sense.
    assert connect(quick, 0, 2, stream=wire.stream).welcome.next_sequence == 1


def test_a_stream_begins_with_a_hello(quick):
    for first in ("nothing", "a batch"):
        wire = Wire(quick)
        if first == "a batch":
            wire.batch(1, body({0: (1.0,)}))
        wire.outgoing.put(None)
        code, details = wire.ended()
        assert code is grpc.StatusCode.INVALID_ARGUMENT, first
        assert "Hello" in details
        wire.close()


def test_a_client_that_goes_before_it_is_answered_leaves_its_rank_free(make_daemon, connect):
    patience = ("--challenge-timeout-s", "0.5", "--primary-wait-s", "0")
    daemon = make_daemon("--backends", "csv", "--commit-window-s", "1", *patience)
    for rank in range(5):
        hasty = connect(daemon, rank, 5, welcome=False)
        hasty.call.cancel()
    second = connect(daemon, 4, 5, names=["loss"])
    second.batch(1, body({0: (1.0,)}))
    second.wait_acknowledged(1)


def test_a_status_that_nobody_waits_for_any_more_does_no_harm(make_daemon, connect):
    daemon = make_daemon("--backends", "csv", "--commit-window-s", "1")
    wire = connect(daemon, names=["loss"])
    ask = wire.channel.unary_unary(
        STATUS_METHOD, pb.StatusRequest.SerializeToString, pb.StatusReply.FromString
    )
    for sequence in range(1, 6):
        wire.batch(sequence, body({sequence: (1.0,)}))
        ask.future(pb.StatusRequest(), metadata=wire.metadata).cancel()
        with pytest.raises(grpc.RpcError):  # gives up while the commit it needs is still to come
            ask(pb.StatusRequest(), metadata=wire.metadata, timeout=0.05)
        wire.wait_acknowledged(sequence)
    assert run_of(daemon)["books"]["received"] == 5


# ---- time ----------------------------------------------------------------------------------------


def test_heartbeats_let_a_metric_of_one_rank_close(make_daemon, connect):
    daemon = make_daemon(*QUICK, "--partial-after-s", "600")
    silent, speaker = connect(daemon, 0, 2), connect(daemon, 1, 2, names=["only"])
    speaker.batch(1, body({0: (5.0,)}, flushed=True))
    speaker.wait_acknowledged(1)

    def closed():
        silent.heartbeat(0)
        speaker.heartbeat(1)
        return run_of(daemon)["records"]["emitted"] == 1

    assert run_of(daemon)["records"]["emitted"] == 0
    wait_until(closed, "the cell of the metric's sole reporter to close")
    # Learned: the next one waits for nobody.
    speaker.batch(2, body({1: (6.0,)}))
    wait_until(lambda: run_of(daemon)["records"]["emitted"] == 2, "the second cell")
    silent.finish(1)
    speaker.finish(3)
    daemon.stop()
    assert [cell(row, "only") for row in daemon.rows()] == [5.0, 6.0]
    assert "only/mean" not in daemon.rows()[0]


def test_a_rank_that_holds_values_back_keeps_the_first_cell_open(make_daemon, connect):
    daemon = make_daemon(*QUICK, "--partial-after-s", "600")
    slow, speaker = connect(daemon, 0, 2, names=["loss"]), connect(daemon, 1, 2, names=["loss"])
    speaker.batch(1, body({0: (5.0,)}))
    speaker.wait_acknowledged(1)
    deadline = time.monotonic() + 1.0
    while time.monotonic() < deadline:  # far longer than the learn wait
        slow.heartbeat(1)  # names a sequence that does not exist yet: it has not sent all
        speaker.heartbeat(1)
        assert run_of(daemon)["records"]["emitted"] == 0
    slow.batch(1, body({0: (3.0,)}))
    wait_until(lambda: run_of(daemon)["records"]["emitted"] == 1, "the cell of both")
    for wire in (slow, speaker):
        wire.finish(2)
    daemon.stop()
    assert [cell(row, "loss/mean") for row in daemon.rows()] == [4.0]


def test_a_cell_that_misses_a_rank_closes_as_partial_and_says_so(make_daemon, connect):
    daemon = make_daemon(*QUICK, "--partial-after-s", "1")
    wires = [connect(daemon, rank, 3, names=["loss"]) for rank in range(3)]
    for rank, wire in enumerate(wires):
        wire.batch(1, body({0: (float(rank),)}))
    for wire in wires:
        wire.wait_acknowledged(1)
    for rank in (0, 1):
        wires[rank].batch(2, body({1: (10.0 * rank,)}))
    wait_until(lambda: run_of(daemon)["records"]["emitted"] == 2, "the partial cell")
    wires[2].batch(2, body({1: (99.0,)}))
    wires[2].wait_acknowledged(2)
    for wire in wires:
        wire.finish(3)
    run = run_of(daemon)
    assert (run["books"]["late"], run["status"]) == (1, "FINISHED")
    daemon.stop()
    first, second = daemon.rows()
    assert (cell(first, "loss/mean"), cell(first, "loss/count")) == (1.0, None)
    assert (cell(second, "loss/mean"), cell(second, "loss/count")) == (5.0, 2.0)


def test_a_restart_lets_every_wait_begin_anew(make_daemon, connect):
    daemon = make_daemon(*QUICK, "--partial-after-s", "4")
    first, second = (connect(daemon, rank, 2, names=["loss"]) for rank in (0, 1))
    for rank, wire in enumerate((first, second)):
        wire.batch(1, body({0: (float(rank),)}))
        wire.wait_acknowledged(1)
    first.batch(2, body({1: (1.0,)}))
    first.wait_acknowledged(2)
    opened = time.monotonic()
    wait_until(lambda: time.monotonic() - opened > 3.0, "most of the patience to be over")
    daemon.kill()
    daemon.start()
    restarted = time.monotonic()
    again = [
        connect(daemon, rank, 2, stream=wire.stream, names=["loss"], acknowledged=wire.acknowledged)
        for rank, wire in enumerate((first, second))
    ]
    wait_until(lambda: time.monotonic() - opened > 4.5, "the first patience to be over")
    if time.monotonic() - restarted < 2.0:  # this machine was quick enough for it to be told
        assert run_of(daemon)["records"]["emitted"] == 1
        again[1].batch(2, body({1: (3.0,)}))
        again[1].wait_acknowledged(2)
        books = run_of(daemon)["books"]
        assert (books["late"], books["folded"]) == (0, 4)


# ---- ends ----------------------------------------------------------------------------------------


def test_a_straggler_s_data_is_delivered_and_the_run_s_state_stays(make_daemon, connect):
    daemon = make_daemon(*QUICK, "--lost-timeout-s", "0.5", "--partial-after-s", "1")
    wires = [connect(daemon, rank, 2, names=["loss"]) for rank in (0, 1)]
    for wire in wires:
        wire.batch(1, body({0: (1.0,)}))
        wire.wait_acknowledged(1)
    wires[1].close()
    wires[0].finish(2)
    wait_until(lambda: run_of(daemon)["status"] == "FAILED", "the lost rank to fail the run")
    ended = run_of(daemon)
    assert ended["reason"] == "rank 1 on here (last step 0) lost contact"
    straggler = connect(daemon, 1, 2, stream=wires[1].stream, names=["loss"], acknowledged=1)
    for sequence in range(2, 6):
        straggler.batch(sequence, body({sequence: (float(sequence),)}))
        straggler.wait_acknowledged(sequence)
    wait_until(lambda: len(daemon.rows()) == 5, "the straggler's rows to be delivered")
    run = run_of(daemon)
    assert (run["status"], run["reason"], run["ended"]) == ("FAILED", ended["reason"], ended["ended"])
    straggler.send(await_delivery=pb.AwaitDelivery())
    straggler.receive("delivered")
    straggler.finish(6)
    assert run_of(daemon)["status"] == "FAILED"
    assert len(daemon.status()["runs"]) == 1
    daemon.stop()
    assert [int(row["step"]) for row in daemon.rows()] == [0, 2, 3, 4, 5]


def test_ranks_that_never_come_are_named_and_no_failure(make_daemon, connect):
    daemon = make_daemon(*QUICK, "--start-timeout-s", "1", "--primary-wait-s", "0")
    wire = connect(daemon, 1, 4, names=["loss"])
    wire.batch(1, body({0: (1.0,)}))
    wire.finish(2)
    wait_until(lambda: run_of(daemon)["status"] != "RUNNING", "the wait for the others to be over")
    run = run_of(daemon)
    assert (run["status"], run["reason"]) == ("FINISHED", "ranks 0, 2, 3 never connected")
    assert run["books"]["folded"] == 1


def test_ranks_that_never_come_are_missed_after_a_restart_too(make_daemon, connect):
    daemon = make_daemon(*QUICK, "--start-timeout-s", "1.5")
    wire = connect(daemon, 0, 2, names=["loss"])
    wire.finish(1)
    daemon.kill()
    daemon.start()
    wait_until(lambda: run_of(daemon)["status"] == "FINISHED", "the rank that never connected to be missed")
    assert run_of(daemon)["reason"] == "rank 1 never connected"


def test_a_rank_that_first_comes_after_a_restart_joins_its_run(quick, connect):
    first = connect(quick, 0, 2, names=["loss"])
    quick.kill()
    quick.start()
    connect(quick, 0, 2, stream=first.stream, names=["loss"])
    second = connect(quick, 1, 2, names=["loss"])
    assert (second.welcome.run_id, second.welcome.attempt) == (first.welcome.run_id, 1)
    assert len(quick.status()["runs"]) == 1


def test_a_resumed_run_goes_on_in_its_next_attempt(quick, connect):
    first = connect(quick, run_id="mine", names=["loss"])
    first.batch(1, body({0: (1.0,), 1: (2.0,)}))
    first.finish(2, code=1)
    assert run_of(quick)["status"] == "FAILED"
    again = connect(quick, run_id="mine", names=["loss"])
    assert (again.welcome.attempt, again.welcome.next_step) == (2, 2)
    run = run_of(quick)
    assert (run["status"], run["reason"], run["ended"]) == ("RUNNING", None, None)
    again.batch(1, body({2: (3.0,)}))
    again.finish(2)
    quick.stop()
    (run,) = quick.last_status()["runs"]
    assert (run["status"], run["attempt"]) == ("FINISHED", 2)
    assert [cell(row, "loss") for row in quick.rows()] == [1.0, 2.0, 3.0]


# ---- many runs -----------------------------------------------------------------------------------


def test_runs_that_ended_long_ago_come_back_when_something_asks_for_them(
    make_daemon, connect, tmp_path, monkeypatch
):
    (tmp_path / "sitecustomize.py").write_text(
        "from tracker_protocol import limits\nlimits.RUNS_ENDED_MAX = 1\n"
    )
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    daemon = make_daemon(*QUICK)
    trials = []
    for trial in range(4):
        wire = connect(daemon, run_id=f"trial{trial}", names=["loss"])
        wire.batch(1, body({0: (float(trial),)}))
        wire.finish(2)
        trials.append(wire)
    wait_until(lambda: len(daemon.status()["runs"]) == 1, "the older runs to be let go")
    assert run_of(daemon)["run_id"] == "trial3"

    # A process of the first one comes back, and the second one is resumed.
    straggler = connect(daemon, stream=trials[0].stream, names=["loss"], acknowledged=2)
    assert (straggler.welcome.run_id, straggler.welcome.next_sequence) == ("trial0", 3)
    straggler.batch(3, body({7: (70.0,)}))
    straggler.wait_acknowledged(3)
    resumed = connect(daemon, run_id="trial1", names=["loss"])
    assert (resumed.welcome.attempt, resumed.welcome.next_step) == (2, 1)
    resumed.batch(1, body({1: (10.0,)}))
    resumed.finish(2)
    runs = {run["run_id"]: run for run in daemon.status()["runs"]}
    assert runs["trial0"]["books"]["received"] == 2
    assert {run["status"] for run in runs.values()} == {"FINISHED"}
    daemon.stop()
    assert [cell(row, "loss") for row in daemon.rows()] == [3.0]
    for trial, values in (("trial0", [0.0, 70.0]), ("trial1", [1.0, 10.0])):
        directory = daemon.directory_of(trial)
        assert directory.parent == daemon.outdir / "runs"
        assert [cell(row, "loss") for row in daemon.rows(directory)] == values

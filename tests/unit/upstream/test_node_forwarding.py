"""What a daemon that forwards passes on, in both directions, and how it goes on after a restart."""

from __future__ import annotations

import hashlib

from tests.support.ingest.clients import sent_by
from tests.support.upstream.node_side import Node, batch, configs, present, said, stream_id
from tests.support.upstream.root_server import fill, make_room, until
from tracker_daemon.files.content_files import content_path
from tracker_daemon.journal.event import EventKind
from tracker_daemon.recording.events import encode
from tracker_protocol.v1 import tracker_pb2 as pb


async def set_pace(node, session, interval_ms):
    """The root asks for a batch in each interval; returns once the node knows it."""
    await node.server.connection.acknowledge(0, flush_interval_ms=interval_ms)
    notice = pb.DaemonMessage(notice=pb.Notice(text=f"every {interval_ms} ms"))
    await node.server.connection.send(to_rank=pb.ToRank(stream_id=session.stream.stream_id, message=notice))
    assert await sent_by(session, at_least=1) == [notice]


# ---- what ranks say ------------------------------------------------------------------------------


def test_what_a_rank_logs_is_forwarded_under_its_stream_and_counted_once_acknowledged(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0)
        session.take(batch(1, config=['{"lr": 1}']))
        await until(lambda: session.all_committed, "the journal")
        await until(lambda: node.delivered() >= 1, "the root's acknowledgement")
        parts = [part for body in said(node.server) for part in body.parts]
        assert [(part.stream_id, list(part.body.config)) for part in parts] == [(stream_id(1), ['{"lr": 1}'])]
        assert not node.run.live.view.to_forward

    play_node(scenario)


def test_what_is_gathered_goes_up_at_the_pace_that_the_root_wants(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0)
        await node.connected()
        session.take(batch(1, config=['{"lr": 1}']))
        await until(lambda: node.delivered() == 1, "the first batch")
        await set_pace(node, session, 3_600_000)
        session.take(batch(2, config=['{"lr": 2}']))
        await node.committed()
        for _ in range(5):
            node.admission.poll()
            await node.committed()
        assert node.run.live.view.to_forward
        assert configs(node.server.connection) == ['{"lr": 1}']
        await set_pace(node, session, 1)
        await until(lambda: configs(node.server.connection)[1:] == ['{"lr": 2}'], "the batch that is due")

    play_node(scenario)


def test_the_root_is_told_that_a_rank_has_left_once_it_has_all_that_the_rank_said(play_node):
    async def scenario(node):
        node.server.acknowledges = False
        session, _ = await node.come(1, 0)
        await node.come(2, 1)
        both = {stream_id(1), stream_id(2)}
        await node.connected()
        await until(lambda: present(node.server) == both, "both to be there")
        session.take(batch(1, config=["{}"]))
        node.admission.remove(session)
        connection = node.server.connection
        await until(lambda: connection.sequences == [1], "its last words")
        assert present(node.server) == both
        await connection.acknowledge(1)
        await until(lambda: present(node.server) == {stream_id(2)}, "that it has left")
        assert connection.of("presence")[-1].through_sequence == 1

    play_node(scenario)


def test_a_rank_that_is_back_before_its_leaving_was_told_has_not_left(play_node):
    async def scenario(node):
        node.server.acknowledges = False
        session, _ = await node.come(1, 0)
        session.take(batch(1, config=["{}"]))
        node.admission.remove(session)
        await node.connected()
        await until(lambda: node.server.connection.sequences == [1], "its last words")
        again, _ = await node.come(1, 0)
        # What waited for the acknowledgement is told in the order in which it began to wait.
        again.take(pb.ClientMessage(await_delivery=pb.AwaitDelivery()))
        await node.server.connection.acknowledge(1)
        await until(lambda: node.server.connection.of("from_rank"), "what was to be told")
        # It was away for the moment between its connections, and is there from the last word on.
        assert [told.stream_id for told in node.server.connection.of("presence")[-1].ranks]

    play_node(scenario)


def test_a_rank_s_wait_for_delivery_is_passed_on_once_the_root_has_everything(play_node):
    async def scenario(node):
        node.server.acknowledges = False
        session, _ = await node.come(1, 0)
        session.take(batch(1, config=["{}"]))
        session.take(pb.ClientMessage(await_delivery=pb.AwaitDelivery()))
        await node.connected()
        await until(lambda: node.server.connection.sequences == [1], "the batch")
        connection = node.server.connection
        assert connection.of("from_rank") == []
        await connection.acknowledge(1)
        await until(lambda: connection.of("from_rank"), "the question")
        (asked,) = connection.of("from_rank")
        assert (asked.stream_id, asked.message.WhichOneof("message")) == (stream_id(1), "await_delivery")

    play_node(scenario)


def test_a_rank_that_asks_for_the_root_s_journal_is_answered_by_its_node_once_the_root_has_all(play_node):
    async def scenario(node):
        session, welcome = await node.come(1, 0)
        assert welcome.forwarder.root == str(node.server.address)
        assert welcome.forwarder.state_directory == str(node.journal.directory)
        await node.connected()
        node.server.acknowledges = False
        session.take(batch(1, config=['{"lr": 1}']))
        session.take(pb.ClientMessage(await_delivery=pb.AwaitDelivery(recorded=True)))
        connection = node.server.connection
        await until(lambda: configs(connection) == ['{"lr": 1}'], "the batch at the root")
        for _ in range(5):
            node.admission.poll()
            await node.committed()
        assert await sent_by(session) == []
        await connection.acknowledge(connection.sequences[-1])
        (answer,) = await sent_by(session, at_least=1)
        assert answer == pb.DaemonMessage(delivered=pb.Delivered(recorded=True))
        assert connection.of("from_rank") == []

    play_node(scenario)


def test_a_wait_that_the_root_has_answered_is_over_for_good(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0)
        await node.connected()
        session.take(pb.ClientMessage(await_delivery=pb.AwaitDelivery()))
        connection = node.server.connection
        await until(lambda: connection.of("from_rank"), "the question")
        delivered = pb.DaemonMessage(delivered=pb.Delivered())
        await connection.send(to_rank=pb.ToRank(stream_id=stream_id(1), message=delivered))
        assert await sent_by(session, at_least=1) == [delivered]
        connection.break_off()
        again = await node.server.connected(2)
        await until(lambda: again.of("presence"), "the next connection")
        session.take(pb.ClientMessage(challenge_answer=pb.ChallengeAnswer()))
        await until(lambda: again.of("from_rank"), "what was said last")
        (told,) = again.of("from_rank")
        assert told.message.WhichOneof("message") == "challenge_answer"

    play_node(scenario)


def test_a_rank_that_waits_for_delivery_waits_for_its_files_too(play_with_store, tmp_path):
    data = b"some weights"
    digest = hashlib.sha256(data)

    async def scenario(server):
        fill(server.store)
        async with Node(server, tmp_path / "state") as node:
            path = content_path(tmp_path / "state" / "contents", digest.hexdigest())
            path.parent.mkdir(parents=True)
            path.write_bytes(data)
            session, _ = await node.come(1, 0)
            content = pb.Content(sha256=digest.digest(), size_bytes=len(data), path="w")
            item = pb.Item(kind="artifact", key="model", document="{}", contents=[content])
            session.take(batch(1, items=[item], config=["{}"]))
            session.take(pb.ClientMessage(await_delivery=pb.AwaitDelivery()))
            await until(lambda: "contents_max_bytes" in node.trouble("upstream:files"), "the root to be full")
            await until(lambda: node.delivered() == 1, "all that is no file")
            (first,) = (c for c in server.connections if not c.hello.node.files_lane)
            assert first.of("from_rank") == []
            make_room(server.store)
            node.pumps.resume(node.run.live.row_id, "upstream:files")
            await until(lambda: first.of("from_rank"), "the question")
            assert server.store.path(digest.hexdigest()).read_bytes() == data

    play_with_store(scenario)


def test_the_journal_needs_an_item_s_contents_from_the_commit_of_the_item_on(play_node):
    digest = hashlib.sha256(b"some weights")

    async def scenario(node):
        session, _ = await node.come(1, 0)
        await node.connected()
        session.take(batch(1, config=['{"lr": 1}']))
        await until(lambda: node.delivered() == 1, "the first batch")
        await set_pace(node, session, 3_600_000)
        content = pb.Content(sha256=digest.digest(), size_bytes=12, path="w")
        item = pb.Item(kind="artifact", key="model", document="{}", contents=[content])
        session.take(batch(2, items=[item]))
        await node.committed()
        assert session.all_committed
        needed = await node.on_journal(lambda journal: journal.content_uses.release())
        assert needed == {digest.hexdigest()}

    play_node(scenario)


def test_what_else_ranks_say_to_the_root_is_passed_on_at_once(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0)
        await node.connected()
        session.stream.last_seen_s = 0.0
        session.take(pb.ClientMessage(handles_request=pb.HandlesRequest(backend="csv")))
        assert session.stream.last_seen_s > 0.0, "it lives, as far as this daemon knows too"
        session.take(pb.ClientMessage(challenge_answer=pb.ChallengeAnswer(nonce=b"7")))
        session.take(pb.ClientMessage(backend_taken=pb.BackendTaken(backend="mine", entry=2)))
        connection = node.server.connection
        await until(lambda: len(connection.of("from_rank")) == 3, "all three")
        kinds = [told.message.WhichOneof("message") for told in connection.of("from_rank")]
        assert kinds == ["handles_request", "challenge_answer", "backend_taken"]

    play_node(scenario)


# ---- what the root says --------------------------------------------------------------------------


def test_what_the_root_sends_to_a_rank_reaches_that_rank_alone(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0)
        other, _ = await node.come(2, 1)
        await node.connected()
        for stream in (1, 55):
            message = pb.DaemonMessage(notice=pb.Notice(text="hear"))
            await node.server.connection.send(to_rank=pb.ToRank(stream_id=stream_id(stream), message=message))
        assert [sent.notice.text for sent in await sent_by(session, at_least=1)] == ["hear"]
        assert await sent_by(other) == []

    play_node(scenario)


def test_a_run_that_the_root_has_ended_has_ended_here_as_it_says(play_node):
    async def scenario(node):
        session, _ = await node.come(1, 0)
        await node.connected()
        over = pb.RunOver(status="FAILED", reason="rank 3 on node9 lost contact")
        await node.server.connection.send(run_over=over)
        await until(lambda: not node.run.running, "the end")
        (row,) = await node.on_journal(lambda journal: journal.runs())
        assert (row.status, row.reason) == ("FAILED", "rank 3 on node9 lost contact")
        node.admission.remove(session)
        await until(lambda: node.server.connection.ended, "the connection to end, which nobody needs")

    play_node(scenario)


def test_whether_the_root_learns_is_journalled_for_the_ranks_batches_depend_on_it(play_node):
    async def scenario(node):
        await node.come(1, 0)
        await node.connected()

        async def wanted():
            fold = await node.on_journal(lambda _: node.recorder.fold_of(node.run.live))
            return fold.wants_flushes

        async def journalled():
            events = await node.on_journal(
                lambda journal: list(journal.events_after(node.run.live.row_id, 0, limit_bytes=1 << 20))
            )
            return [event.payload for event in events if event.kind is EventKind.FLUSHES_WANTED]

        for learning in (True, False):

            async def is_journalled(learning=learning):
                return (await journalled())[-1:] == [encode(int(learning))]

            await node.server.connection.acknowledge(0, learning=learning)
            await until(is_journalled, "what the root says")
            assert await wanted() is learning
        assert len(await journalled()) <= 3, "only changes are journalled"

    play_node(scenario)


# ---- restarts ------------------------------------------------------------------------------------


def test_a_daemon_that_starts_again_goes_on_on_the_same_stream_after_what_was_acknowledged(play, tmp_path):
    async def scenario(server):
        async with Node(server, tmp_path / "state") as node:
            session, _ = await node.come(1, 0, names=["loss"])
            session.take(batch(1, config=['{"lr": 1}']))
            await until(lambda: node.delivered() == 1, "the first")
        first = server.connection
        async with Node(server, tmp_path / "state") as again:
            session, welcome = await again.come(1, 0, names=["loss"])
            assert welcome.next_sequence == 2
            assert again.decisions.asked == [], "who it is, is known"
            session.take(batch(2, config=['{"lr": 2}']))
            await until(lambda: again.delivered() == 2, "the second")
        second = server.connection
        assert second.hello.stream_id == first.hello.stream_id
        assert second.hello.last_acknowledged == 1
        assert [connection.sequences for connection in (first, second)] == [[1], [2]]

    play(scenario)


def test_what_the_root_got_though_its_acknowledgement_was_lost_is_not_sent_again(play, tmp_path):
    async def scenario(server):
        server.acknowledges, server.keeps_unacknowledged = False, True
        async with Node(server, tmp_path / "state") as node:
            session, _ = await node.come(1, 0)
            session.take(batch(1, config=["{}"]))
            await node.connected()
            await until(lambda: server.connection.sequences == [1], "the batch")
        async with Node(server, tmp_path / "state") as again:
            await again.come(1, 0)
            await until(lambda: again.delivered() == 1, "what the root says that it has")
        assert server.connection.hello.last_acknowledged == 0
        assert server.connection.sequences == []

    play(scenario)


async def on_another_stream(server, than):
    """The connection on another stream than ``than`` is on, once it has brought something."""

    def found():
        return [c for c in server.connections if c.hello.stream_id != than.hello.stream_id and c.sequences]

    await until(found, "the other stream")
    return found()[0]


def test_in_a_new_epoch_everything_goes_up_on_another_stream(play, tmp_path):
    """A rank was told that its batch is safe, and the journal does not have it."""

    async def scenario(server):
        async with Node(server, tmp_path / "state") as node:
            session, _ = await node.come(1, 0)
            session.take(batch(1, config=['{"lr": 1}']))
            await until(lambda: node.delivered() == 1, "the first")
        async with Node(server, tmp_path / "state") as again:
            session, welcome = await again.come(1, 0, last_acknowledged=5)
            assert (welcome.next_sequence, again.journal.epoch) == (6, 2)
            session.take(batch(6, config=['{"lr": 2}']))
            second = await on_another_stream(server, server.connections[0])
            await until(lambda: configs(second) == ['{"lr": 2}'], "the second")
        assert (second.hello.last_acknowledged, second.sequences[0]) == (0, 1)
        notices = [text for body in map(pb.BatchBody.FromString, second.bodies) for text in body.notices]
        assert any("lost batches 2 to 5 of rank 0" in text for text in notices)

    play(scenario)


def test_what_was_acknowledged_in_the_epoch_before_says_nothing_of_this_one(play, tmp_path):
    async def scenario(server):
        async with Node(server, tmp_path / "state") as node:
            session, _ = await node.come(1, 0)
            session.take(batch(1, config=["{}"]))
            await until(lambda: node.delivered() == 1, "the first")
        server.acknowledges = False
        async with Node(server, tmp_path / "state") as again:
            await again.come(1, 0, last_acknowledged=5)
            second = await on_another_stream(server, server.connections[0])
        before = len(server.connections)
        async with Node(server, tmp_path / "state"):
            third = await server.connected(before + 1)
        assert third.hello.stream_id == second.hello.stream_id
        assert third.hello.last_acknowledged == 0

    play(scenario)


def test_what_the_root_got_in_this_epoch_before_the_cursor_moved_is_no_sign_of_a_loss(play, tmp_path):
    async def scenario(server):
        async with Node(server, tmp_path / "state") as node:
            session, _ = await node.come(1, 0)
            session.take(batch(1, config=["{}"]))
            await until(lambda: node.delivered() == 1, "the first")
        server.acknowledges, server.keeps_unacknowledged = False, True
        async with Node(server, tmp_path / "state") as again:
            await again.come(1, 0, last_acknowledged=5)
            await on_another_stream(server, server.connections[0])
        async with Node(server, tmp_path / "state") as third:
            await third.come(1, 0, last_acknowledged=5)
            await until(lambda: third.delivered() == 2, "what the root says that it has")
            assert third.journal.epoch == 2

    play(scenario)

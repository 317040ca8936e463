"""Ranks and nodes' daemons that a registry lets in, without a connection."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from dataclasses import dataclass, replace

from tests.support.ingest.messages import NODE, hello, node_hello
from tracker_daemon.ingest.nodes import Nodes, NodeSession, RelayedSession
from tracker_daemon.ingest.session import SessionContext
from tracker_daemon.runs.registry import Registry
from tracker_daemon.runs.run import Admission
from tracker_daemon.runs.run_options import RunOptions
from tracker_protocol.v1 import tracker_pb2 as pb


@dataclass
class Connection:
    """Plays a session, as far as the registry needs one."""

    superseded: int = 0
    directory: str = ""

    def supersede(self) -> None:
        self.superseded += 1

    def send_directory(self, path: str) -> None:
        self.directory = path


class Door:
    """Lets clients into a registry as the daemon does, less the journal."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.rows = 0

    def come(self, *arguments, **keywords):
        admission = self.registry.admit(hello(*arguments, **keywords))
        self.registry.connect(admission.stream, Connection())
        run = admission.stream.run
        if admission.new_run:
            self.rows += 1
            run.live.row_id = self.rows
        return admission

    def go(self, admission) -> None:
        self.registry.disconnect(admission.stream, admission.stream.connection)

    def end(self, run, status: str = "FINISHED", ended_ns: int = 1) -> None:
        run.live.view = replace(run.live.view, status=status, ended_ns=ended_ns)


async def sent_by(session, *, at_least=0):
    """The messages, beside acknowledgements, that a connection has to send and did not send before.

    Waits until there are ``at_least`` so many.
    """
    last = pb.DaemonMessage(notice=pb.Notice(text="nothing was sent after this"))
    messages = []
    if not at_least:
        session.send(last)
    async with aclosing(session.replies()) as replies:
        async for message in replies:
            if message == last:
                return messages
            if not message.HasField("acknowledgement"):
                messages.append(message)
                if len(messages) == at_least:
                    session.send(last)
    raise AssertionError("the connection has ended")


class NodesDesk:
    """A root's registry and recorder, with two ranks that a node's daemon has brought."""

    def __init__(self, rig, recorder):
        self.rig = rig
        self.recorder = recorder
        self.registry = Registry(RunOptions("memory", "/out", 0, ""), rig.run().rules)
        self.nodes = Nodes(self._came, self._left)
        self.log = []
        """Who came and who left, in order: (what, rank)."""
        self.present = []
        self.awaited = []
        """Who waits for a delivery: the ranks of sessions, and if for files alone."""

    def _came(self, link, stream, present):
        session = link.relayed[stream.stream_id] = self._relayed(Admission(stream), link)
        self.registry.connect(stream, session)
        self.log.append(("came", stream.rank))
        self.present.append(present)

    def _left(self, session):
        self.registry.disconnect(session.stream, session)
        self.log.append(("left", session.stream.rank))

    def _relayed(self, admission, link):
        return RelayedSession(admission, self.serving(), link)

    async def rank(self, number, rank, **keywords):
        """A rank is admitted for its node."""
        message = hello(number, rank, **keywords)
        admission = self.registry.admit(message)
        self.run = admission.stream.run
        session = self._relayed(admission, self.nodes.link(NODE, self.run))
        await session.welcome(message, new_backends={"memory": b""}, script_backends=[], version="1")
        return admission.stream

    def serving(self):
        return SessionContext(
            self.recorder, asyncio.get_running_loop(), lambda: 200, on_delivery_awaited=self._await
        )

    def _await(self, session, asked):
        self.awaited.append((session.stream.rank, asked.files))

    async def node(self, **keywords):
        """The node's daemon connects."""
        message = node_hello(self.run.run_id, **keywords)
        admission = self.registry.admit(message)
        link = self.nodes.link(message.node.node_id, self.run)
        session = NodeSession(admission, self.serving(), link, files_lane=message.node.files_lane)
        self.registry.connect(admission.stream, session)
        await session.welcome(message, new_backends={}, script_backends=[], version="1")
        if not session.files_lane:
            link.attach(session)
        return session

    async def committed(self, session):
        """Everything that the session took is durable, and it knows."""
        await asyncio.wrap_future(self.recorder.call(lambda _: None))
        session.wake()

    def end(self, status="FINISHED", reason="as it should"):
        self.run.live.view = replace(self.run.live.view, status=status, reason=reason, ended_ns=1)

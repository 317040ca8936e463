"""The link to the daemon: one connection after another, each made at its time.

A connection begins with *Hello → Welcome*, in which both sides list the batches that they have. Then batches,
acknowledgements and heartbeats follow until the connection breaks. The link then waits and connects again,
for as long as the sender lives.
"""

from __future__ import annotations

from collections.abc import Callable

from tracker_client.endpoints.address_choice import AddressHistory
from tracker_client.errors import EmbeddedDaemonFailed, EndpointError, EndpointMissing, EndpointPending
from tracker_client.sending.batch_builder import BatchBuilder
from tracker_client.sending.published import Published
from tracker_client.sending.reconnecting import Reconnecting
from tracker_client.sending.state import LinkMachine, LinkState
from tracker_client.settings.reading import ClientSettings
from tracker_client.transport.messages import ConnectionClosed, Introduction, Reply
from tracker_client.transport.stream import Connection
from tracker_protocol import limits

Deliver = Callable[[Connection, Reply], None]


class Link:
    """The present connection and its state. Only the sender's thread may use it."""

    def __init__(
        self,
        settings: ClientSettings,
        introduction: Introduction,
        batches: BatchBuilder,
        deliver: Deliver,
        published: Published,
        warn: Callable[[str, int], None],
    ) -> None:
        self.connection: Connection | None = None
        """The present connection, welcomed or not."""
        self.names_known = 0
        """The number of metric names in the Hello of the present connection."""
        self._machine = LinkMachine()
        self._source = settings.source
        self._introduction = introduction
        self._batches = batches
        self._deliver = deliver
        self._published = published
        self._addresses = AddressHistory()
        # The other ranks wait for the primary rank, so it connects at once.
        waiting = 0 if introduction.is_primary else settings.rank.world_size or 1
        spread_s = waiting * limits.CONNECT_JITTER_PER_RANK_S
        self._reconnecting = Reconnecting(spread_s, warn)

    @property
    def streaming(self) -> Connection | None:
        """The connection if the daemon has welcomed the stream on it, else None."""
        return self.connection if self._machine.state is LinkState.STREAMING else None

    @property
    def deadline(self) -> float:
        """The time at which :meth:`advance` has something to do."""
        return (
            self._reconnecting.due_at if self._machine.state is LinkState.WAITING else self._machine.deadline
        )

    def begin(self, now: float) -> None:
        """Schedule the first attempt."""
        self._reconnecting.begin(now)

    def hasten(self, now: float) -> None:
        """Try soon if there is no connection."""
        self._reconnecting.hasten(now)

    def advance(self, now: float) -> bool:
        """Connect if it is time for that; give up on a daemon that has been silent for too long.

        Returns:
            False if this process can start no thread for a connection.
        """
        if self._machine.state is LinkState.WAITING and now >= self._reconnecting.due_at:
            return self._connect(now)
        if self._machine.is_overdue(now):
            self._lose(f"no answer within {limits.CONNECT_TIMEOUT_S:.0f} s", now)
        return True

    # ---- what the daemon answers -----------------------------------------------------------------

    def welcomed(self) -> None:
        """Note that the daemon has welcomed the stream."""
        assert self.connection is not None, "replies of earlier connections are ignored"
        self._machine.welcomed()
        self._addresses.worked(self.connection.address)
        self._reconnecting.welcomed()
        self._published.connected = True
        self._published.connections += 1
        self._published.problem = ""

    def acknowledged(self) -> None:
        """Note that the daemon works."""
        self._reconnecting.acknowledged()

    def closed(self, closed: ConnectionClosed, now: float) -> None:
        """Note that the daemon has ended the connection, perhaps with a refusal."""
        text = f"{closed.details} ({closed.code})"
        self._lose(f"refused: {text}" if closed.is_refusal else text, now, refused=closed.is_refusal)

    def end(self) -> None:
        """Close the link for good."""
        self._drop_connection()
        self._machine.ended()

    # ---- one connection --------------------------------------------------------------------------

    def _connect(self, now: float) -> bool:
        try:
            endpoint = self._source.read()
            self.connection = Connection(self._addresses.choose(endpoint.addresses), endpoint, self._deliver)
        except EndpointPending as pending:
            self._published.problem = str(pending)
            missing = isinstance(pending, EndpointMissing)
            self._reconnecting.await_endpoint(str(pending), now, missing=missing)
        except (EndpointError, ValueError) as error:
            self._lose(str(error), now, refused=isinstance(error, EmbeddedDaemonFailed))
        except RuntimeError as error:
            # No thread could be started. In an interpreter that is shutting down none ever will be.
            self._lose(f"{error}; call finish() before the script ends", now)
            return False
        else:
            self._introduce(self.connection)
            self._machine.opened(now)
        finally:
            self._published.tried.set()
        return True

    def _introduce(self, connection: Connection) -> None:
        unacknowledged, dictionary = self._batches.unacknowledged, self._batches.encoder.dictionary
        self.names_known = dictionary.announced
        connection.hello(
            self._introduction,
            acknowledged=unacknowledged.acknowledged,
            oldest_held=unacknowledged.oldest_held,
            names=dictionary.names[: self.names_known],
        )

    def _lose(self, problem: str, now: float, *, refused: bool = False) -> None:
        """Drop the connection, or note that none was made; schedule the next attempt."""
        address = str(self._source)
        if self.connection is not None:
            address = self.connection.address
            self._addresses.failed(address)
        self._drop_connection()
        self._machine.lost()
        self._published.problem = f"{address}: {problem}"
        self._reconnecting.fail(self._published.problem, now, refused=refused)

    def _drop_connection(self) -> None:
        connection, self.connection = self.connection, None
        self._published.connected = False
        self._batches.unacknowledged.rewind()
        if connection is not None:
            connection.close()

"""Runs that ended long ago and are no longer in memory: the ids by which clients may still name them."""

from __future__ import annotations

from tracker_daemon.runs.run import Run
from tracker_protocol.v1 import tracker_pb2 as pb


class ForgottenRuns:
    """Maps run ids and stream ids to rows of the journal, for runs that may have to be restored."""

    def __init__(self) -> None:
        self._rows_by_run: dict[str, int] = {}
        self._rows_by_stream: dict[bytes, int] = {}

    def __contains__(self, run_id: str) -> bool:
        return run_id in self._rows_by_run

    def add(self, run: Run) -> None:
        """Add a run that is about to leave memory."""
        self._rows_by_run[run.run_id] = run.live.row_id
        for stream_id in run.streams:
            self._rows_by_stream[stream_id] = run.live.row_id

    def discard(self, run: Run) -> None:
        """Remove a run that is in memory again, with its streams."""
        self._rows_by_run.pop(run.run_id, None)
        for stream_id in run.streams:
            self._rows_by_stream.pop(stream_id, None)

    def row_id(self, hello: pb.Hello) -> int | None:
        """Return the row of the run that ``hello`` names by stream or run id; None if there is none."""
        row_id = self._rows_by_stream.get(hello.stream_id)
        run_id = hello.node.run_id or hello.launch.run_id
        return self._rows_by_run.get(run_id) if row_id is None else row_id

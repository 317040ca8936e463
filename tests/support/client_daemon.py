"""A daemon for the client's tests: a real gRPC server in this process that speaks the real protocol.

It keeps what it acknowledges in memory and checks what a daemon checks: the token, the checksum and
that sequences are contiguous. How it behaves is set by plain attributes.
"""

from __future__ import annotations

import hashlib
import threading
import zlib
from array import array
from concurrent.futures import ThreadPoolExecutor
from queue import Empty, SimpleQueue
from typing import NamedTuple

import grpc

from tracker_protocol import SERVICE, TOKEN_METADATA_KEY
from tracker_protocol.v1 import tracker_pb2 as pb

TOKEN = "right-token"
DEADLINE_S = 5.0


class Point(NamedTuple):
    name: str
    step: int
    value: float | str


class Stored:
    """What the daemon has of one stream."""

    def __init__(self):
        self.next_sequence = 1
        self.names = []
        self.bodies = {}
        self.gaps = []
        self.points = []
        self.rows = {}
        """By number: (step, values by name)."""
        self.config = []
        self.items = []
        self.finish = None
        self.exiting = False

    def hello(self, hello):
        self.names.extend(hello.names[len(self.names) :])

    def batch(self, sequence, data):
        body = pb.BatchBody.FromString(data)
        self.names.extend(body.names)
        for block in body.blocks:
            values = array("d", block.values)
            self._take(block, list(values))
        for block in body.texts:
            self._take(block, list(block.values))
        self.config.extend(body.config)
        self.items.extend(body.items)
        if body.HasField("finish"):
            self.finish = body.finish
        self.exiting = body.HasField("exiting")
        self.bodies[sequence] = body
        self.next_sequence = sequence + 1

    def _take(self, block, values):
        width = len(block.keys)
        numbers = array("q", block.rows)
        for row, step in enumerate(array("q", block.steps)):
            points = [
                Point(self.names[key], step, values[row * width + column])
                for column, key in enumerate(block.keys)
            ]
            self.points += points
            at, found = self.rows.setdefault(numbers[row], (step, {}))
            new = {point.name: point.value for point in points}
            assert at == step
            assert found.keys().isdisjoint(new)
            found.update(new)


class FakeDaemon:
    def __init__(self):
        self.token = TOKEN
        self.flush_interval_ms = 20
        self.next_step = 0
        self.records_items = True
        self.refusal = None  # (status code, text)
        self.refused = 0  # how many connections
        self.acknowledging = threading.Event()
        self.acknowledging.set()
        self.break_at = None  # (sequence, whether it is stored): end the stream there, once
        self.backends = ()  # the run's
        self.script_backends = ()  # the script's classes that it says it feeds
        self.contents = {}
        self.offsets = []  # where uploads went on
        self.break_upload_at = None  # bytes: end the upload there, once
        self.upload_refusal = None  # (status code, text)
        self.uploading = threading.Event()
        self.upload_held = None  # an event that uploads wait for
        self.hellos = []
        self.heartbeats = []
        self.warnings = []
        self.streams = {}
        self.violations = []
        self.delivery_asked = threading.Event()
        self.delivered = threading.Event()
        self.delivered.set()
        self.asked = []
        """What ranks have waited for: "recorded", "files" or "delivered"."""
        self.forwarder = None  # a pb.Forwarder: this is a node's daemon
        self.root_has_all = threading.Event()
        self.root_has_all.set()
        self.missing = ""
        """What the files lack, in answers to these."""
        self._server = None
        self.port = 0

    def start(self, address="127.0.0.1:0"):
        self._server = grpc.server(ThreadPoolExecutor(32), options=[("grpc.so_reuseport", 0)])
        handler = grpc.stream_stream_rpc_method_handler(
            self._stream, pb.ClientMessage.FromString, pb.DaemonMessage.SerializeToString
        )
        uploads = grpc.stream_stream_rpc_method_handler(
            self._upload, pb.UploadRequest.FromString, pb.UploadReply.SerializeToString
        )
        self._server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"Stream": handler, "Upload": uploads}),)
        )
        self.port = self._server.add_insecure_port(address)
        self._server.start()
        return self

    @property
    def endpoint(self):
        return f"127.0.0.1:{self.port}"

    def stop(self):
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    @property
    def stream(self):
        """The only stream."""
        (stored,) = self.streams.values()
        return stored

    @property
    def points(self):
        return [point for stored in list(self.streams.values()) for point in list(stored.points)]

    def _upload(self, requests, context):
        beginning = next(requests).beginning
        if self.upload_refusal is not None:
            context.abort(*self.upload_refusal)
        data = self.contents.setdefault(beginning.sha256, bytearray())
        if len(data) < beginning.size_bytes or not data:
            self.offsets.append(len(data))
            yield pb.UploadReply(offset=len(data))
            for message in requests:
                data += message.chunk
                self.uploading.set()
                if self.upload_held is not None:
                    self.upload_held.wait(DEADLINE_S)
                if self.break_upload_at is not None and len(data) >= self.break_upload_at:
                    self.break_upload_at = None
                    context.abort(grpc.StatusCode.UNAVAILABLE, "broken on purpose")
                if len(data) >= beginning.size_bytes:
                    break
        if hashlib.sha256(data).digest() != beginning.sha256:
            data.clear()
            context.abort(grpc.StatusCode.DATA_LOSS, "not what was announced")
        yield pb.UploadReply(offset=len(data), complete=True)

    def _stream(self, requests, context):
        if (TOKEN_METADATA_KEY, f"Bearer {self.token}") not in tuple(context.invocation_metadata()):
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is wrong")
        if self.refusal is not None:
            self.refused += 1
            context.abort(*self.refusal)
        hello = next(requests).hello
        self.hellos.append(hello)
        stored = self.streams.setdefault(hello.stream_id, Stored())
        stored.hello(hello)
        replies = SimpleQueue()
        ended = threading.Event()
        welcome = pb.Welcome(
            run_id="run-1", attempt=1, next_sequence=stored.next_sequence, next_step=self.next_step,
            flush_interval_ms=self.flush_interval_ms, run_name="name", outdir="/out",
            records_items=self.records_items, script_backends=self.script_backends,
            backends=self.backends, forwarder=self.forwarder,
        )  # fmt: skip
        yield pb.DaemonMessage(welcome=welcome)
        threading.Thread(target=self._read, args=(requests, stored, replies, ended), daemon=True).start()
        while True:
            try:
                reply = replies.get(timeout=0.02)
            except Empty:
                if ended.is_set():
                    return
                continue
            if isinstance(reply, tuple):
                context.abort(*reply)
            if reply.WhichOneof("message") == "acknowledgement":
                self.acknowledging.wait(DEADLINE_S)
            yield reply

    def _read(self, requests, stored, replies, ended):
        try:
            for message in requests:
                reply = self._take(message, stored)
                if reply is not None:
                    replies.put(reply)
                if isinstance(reply, tuple):
                    return
        except grpc.RpcError:
            pass
        except Exception as error:  # noqa: BLE001 - shown by the test
            self.violations.append(repr(error))
        finally:
            ended.set()

    def _take_note(self, kind, message):
        if kind == "heartbeat":
            self.heartbeats.append(message.heartbeat.flushed_through)
        if kind == "warning":
            self.warnings.append(message.warning.text)
            return pb.DaemonMessage(notice=pb.Notice(text=f"rank 0: {message.warning.text}"))
        return None

    def _answer(self, asked):
        self.delivery_asked.set()
        self.asked.append("recorded" if asked.recorded else "files" if asked.files else "delivered")
        (self.root_has_all if asked.recorded else self.delivered).wait(DEADLINE_S)
        missing = "" if asked.recorded else self.missing
        return pb.DaemonMessage(delivered=pb.Delivered(missing=missing, recorded=asked.recorded))

    def _take(self, message, stored):
        kind = message.WhichOneof("message")
        if kind in ("heartbeat", "backend_taken", "warning"):
            return self._take_note(kind, message)
        if kind == "handles_request":
            backend = message.handles_request.backend
            return pb.DaemonMessage(backend_handles=pb.BackendHandles(backend=backend, problem="not begun"))
        if kind == "await_delivery":
            return self._answer(message.await_delivery)
        if kind == "gap":
            gap = message.gap
            if gap.from_sequence != stored.next_sequence:
                self.violations.append(f"gap {gap} at {stored.next_sequence}")
            stored.gaps.append((gap.from_sequence, gap.to_sequence, gap.points))
            stored.next_sequence = gap.to_sequence + 1
            return self._acknowledge(stored)
        batch = message.batch
        if self.break_at is not None and batch.sequence == self.break_at[0]:
            if self.break_at[1]:
                stored.batch(batch.sequence, batch.body)
            self.break_at = None
            return (grpc.StatusCode.UNAVAILABLE, "broken on purpose")
        if zlib.crc32(batch.body) != batch.crc32:
            self.violations.append(f"checksum of {batch.sequence}")
        if batch.sequence != stored.next_sequence:
            self.violations.append(f"sequence {batch.sequence} at {stored.next_sequence}")
        stored.batch(batch.sequence, batch.body)
        return self._acknowledge(stored)

    def _acknowledge(self, stored):
        acknowledgement = pb.Acknowledgement(
            sequence=stored.next_sequence - 1, flush_interval_ms=self.flush_interval_ms
        )
        return pb.DaemonMessage(acknowledgement=acknowledgement)

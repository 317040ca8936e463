"""A server that answers as a daemon does, over real gRPC."""

from __future__ import annotations

from collections.abc import Callable
from concurrent import futures

import grpc

from tracker_daemon.endpoints.endpoint_file import EndpointInfo
from tracker_protocol import SERVICE, TOKEN_METADATA_KEY
from tracker_protocol.v1 import tracker_pb2 as pb

DOCUMENT = '{"daemon": {"version": "1"}, "runs": []}'
Handler = Callable[[object, grpc.ServicerContext], object]


class Server:
    """A daemon's unary calls; ``status`` and ``on_stop`` may be replaced by a test."""

    document = DOCUMENT

    def __init__(self) -> None:
        self.drain_timeouts: list[float | None] = []
        self.status: Handler = lambda _, __: pb.StatusReply(json=self.document)
        self.on_stop: Callable[[], None] = lambda: None
        handlers = {
            "Status": grpc.unary_unary_rpc_method_handler(
                self._status, pb.StatusRequest.FromString, pb.StatusReply.SerializeToString
            ),
            "Stop": grpc.unary_unary_rpc_method_handler(
                self._stop, pb.StopRequest.FromString, pb.StopReply.SerializeToString
            ),
        }
        self.server = grpc.server(futures.ThreadPoolExecutor(4), options=[("grpc.so_reuseport", 0)])
        self.server.add_generic_rpc_handlers([grpc.method_handlers_generic_handler(SERVICE, handlers)])
        self.port = self.server.add_insecure_port("127.0.0.1:0")
        self.server.start()
        address = f"127.0.0.1:{self.port}"
        self.info = EndpointInfo(address, (address,), "s3cret", None, 4711, "elsewhere", 1)

    def _status(self, request: object, context: grpc.ServicerContext) -> object:
        self._check(context)
        return self.status(request, context)

    def _stop(self, request: pb.StopRequest, context: grpc.ServicerContext) -> pb.StopReply:
        self._check(context)
        self.drain_timeouts.append(request.timeout_s if request.HasField("timeout_s") else None)
        self.on_stop()
        return pb.StopReply(pid=self.info.pid)

    def _check(self, context: grpc.ServicerContext) -> None:
        if dict(context.invocation_metadata()).get(TOKEN_METADATA_KEY) != "Bearer s3cret":
            context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token is wrong")

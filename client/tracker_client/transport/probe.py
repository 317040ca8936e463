"""Whether a daemon can be reached from here: asked once, without joining a run."""

from __future__ import annotations

import grpc

from tracker_client.endpoints.endpoint import Endpoint
from tracker_client.transport.stream import open_channel
from tracker_protocol import STATUS_METHOD, TOKEN_METADATA_KEY
from tracker_protocol.v1 import tracker_pb2 as pb


def why_unreachable(address: str, endpoint: Endpoint, timeout_s: float) -> str | None:
    """Ask the daemon at ``address`` for its status; None when it answers, else why it does not."""
    metadata = ((TOKEN_METADATA_KEY, f"Bearer {endpoint.token}"),) if endpoint.token else None
    with open_channel(address, endpoint.tls_root_pem) as channel:
        ask = channel.unary_unary(
            STATUS_METHOD,
            request_serializer=pb.StatusRequest.SerializeToString,
            response_deserializer=pb.StatusReply.FromString,
        )
        try:
            ask(pb.StatusRequest(), timeout=timeout_s, metadata=metadata)
        except grpc.RpcError as error:
            return f"{error.details()} ({error.code().name})"
    return None

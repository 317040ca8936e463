"""A check that a daemon can be reached from here, without joining a run."""

from __future__ import annotations

from tracker_client.endpoints.endpoint import Endpoint
from tracker_client.transport.channel import open_grpc_channel, token_metadata
from tracker_client.transport.grpc_loading import grpc
from tracker_protocol import STATUS_METHOD
from tracker_protocol.v1 import tracker_pb2 as pb


def why_unreachable(address: str, endpoint: Endpoint, timeout_s: float) -> str | None:
    """Ask the daemon at ``address`` for its status, once.

    Returns:
        The reason why the daemon does not answer within ``timeout_s`` seconds; None if it answers.
    """
    with open_grpc_channel(address, endpoint.tls_root_pem) as channel:
        ask = channel.unary_unary(
            STATUS_METHOD,
            request_serializer=pb.StatusRequest.SerializeToString,
            response_deserializer=pb.StatusReply.FromString,
        )
        try:
            ask(pb.StatusRequest(), timeout=timeout_s, metadata=token_metadata(endpoint))
        except grpc.RpcError as error:
            return f"{error.details()} ({error.code().name})"
    return None

"""A gRPC server that echoes: it accepts any method, and sends each message back as it arrives.

It parses no message: the frames of a call (gRPC over HTTP/2, "Length-Prefixed-Message") are the same both ways. So a
client needs no definition of a service; `channel.stream_stream("/any/Method")` is answered.
"""

from __future__ import annotations

from oxyctl.services.http.messages import Request, Response

TYPE = "application/grpc"


def is_call(request: Request) -> bool:
    """Whether the request is a gRPC call: a POST over HTTP/2 of that type."""
    kind = request.header("content-type") or ""
    return request.method == "POST" and request.version == "2" and kind.partition("+")[0].partition(";")[0] == TYPE


def echo(request: Request) -> Response:
    """The messages of the call, and status 0 after the last of them."""
    kind = request.header("content-type") or TYPE
    return Response(200, [("Content-Type", kind)], request.body, trailers=[("grpc-status", "0")])

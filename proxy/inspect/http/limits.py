"""Limits on the sizes and times of a conversation."""

from __future__ import annotations

import msgspec

HIGH_WATER = 256 << 10  # bytes queued for one side above which the other is not read


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The limits of one conversation. Sizes in bytes, times in seconds."""

    header_bytes: int = 64 << 10  # of one head: lines, names and values
    header_fields: int = 200
    chunk_overhead_bytes: int = 16 << 10  # of chunk headers beyond the allowance of each chunk
    header_s: float = 30.0  # from the first byte of a head to its last
    idle_s: float = 75.0  # between two requests
    response_s: float = 300.0  # from a request's end to the response's head
    body_s: float = 60.0  # in which a client must send more of its body, or take more of its response
    body_rate: int = 100  # bytes a second that a client must send of a body of known length
    stream_s: float = 3600.0  # of silence in a response, an upgraded connection or a tunnel
    linger_s: float = 2.0  # for a client to read an error page before the connection is closed
    streams: int = 100  # concurrent requests of one HTTP/2 connection
    window_bytes: int = 64 << 10  # of a stream, to begin with
    wide_window_bytes: int = 2 << 20  # of a response at most, while its client keeps up
    upload_window_bytes: int = 16 << 20  # of an upload, while its origin keeps up: more than kernels queue
    spare_window_bytes: int = 4 << 20  # by which a connection may widen its windows, besides the shared budget
    origin_connections: int = 6  # of one conversation to one HTTP/1.1 origin
    waiting: int = 200  # requests that wait for such a connection
    message_bytes: int = 64 << 20  # of an inflated WebSocket message, if a hook reads it
    frame_bytes: int = 1 << 40
    passes: int = 3  # of a request through this proxy, by Via


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """The proxy's name in Via and Proxy-Status, and what it forwards of other servers' announcements."""

    name: str = "oxy"
    is_in_via: bool = True
    keeps_alt_svc: bool = False  # Alt-Svc leads clients to HTTP/3, which is not inspected

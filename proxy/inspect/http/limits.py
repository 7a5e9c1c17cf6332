"""Sizes and times that keep a conversation bounded, whoever is at its ends."""

from __future__ import annotations

import msgspec

HIGH_WATER = 256 << 10  # bytes queued for one side above which the other is not read


class Limits(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What one conversation may take. Sizes in bytes, times in seconds."""

    header_bytes: int = 64 << 10  # of one head: lines, names and values
    header_fields: int = 200
    chunk_overhead_bytes: int = 16 << 10  # of chunk headers beyond what the chunks earn
    header_s: float = 30.0  # from the first byte of a head to its last
    idle_s: float = 75.0  # between two requests
    response_s: float = 300.0  # from a request's end to the response's head
    body_s: float = 60.0  # a client that neither sends its body nor takes its response
    body_rate: int = 100  # bytes a second, of a request's body whose length was announced
    stream_s: float = 3600.0  # a response, an upgraded connection or a tunnel in which nothing moves
    linger_s: float = 2.0  # for a client to read why it was refused, before the connection goes
    streams: int = 100  # concurrent requests of one HTTP/2 connection
    window_bytes: int = 512 << 10  # of a stream; four times as much for a connection
    wide_window_bytes: int = 2 << 20  # of one stream of a client's at a time, once more than `window_bytes` have passed
    origin_connections: int = 6  # of one conversation to one HTTP/1.1 origin
    waiting: int = 200  # requests that wait for one of them
    message_bytes: int = 64 << 20  # of a WebSocket message, inflated, where a hook reads it
    frame_bytes: int = 1 << 40
    passes: int = 3  # of one request through this proxy, by its Via


class Identity(msgspec.Struct, frozen=True, kw_only=True):
    """What the proxy calls itself in Via and Proxy-Status, and what it lets pass of what others say of themselves."""

    name: str = "oxy"
    is_in_via: bool = True
    keeps_alt_svc: bool = False  # Alt-Svc invites the client to HTTP/3, which is not read

"""What a client of a relay says before the origin answers: if it is a ClientHello, the record tells of it."""

from __future__ import annotations

from proxy.flow.flow import Flow
from proxy.flow.hello import tls_record
from proxy.wire.client_hello import HANDSHAKE, MAX_HELLO, Hello, parse


def greeting_with(flow: Flow, greeting: bytes, chunk: memoryview) -> bytes:
    """The greeting so far, with what the client says now; empty for what is no TLS, or was looked at before."""
    if flow.tls is not None or len(greeting) > MAX_HELLO:
        return greeting
    is_more = greeting if flow.client_payload else chunk[0] == HANDSHAKE
    return greeting + chunk if is_more else greeting


def look_at(flow: Flow, greeting: bytes) -> bytes:
    """Say in the record what it was: the origin answers, which it would not before it has the whole hello.

    Returns what is left to be looked at: nothing.
    """
    hello = parse(greeting)
    if isinstance(hello, Hello):
        flow.tls, flow.detected_protocol = tls_record(hello), "tls"
    return b""

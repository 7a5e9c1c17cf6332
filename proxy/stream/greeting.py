"""What the client of a relayed flow says before the origin answers: a ClientHello is noted in the record."""

from __future__ import annotations

from proxy.flow.flow import Flow
from proxy.flow.hello import tls_record
from proxy.wire.client_hello import HANDSHAKE, MAX_HELLO, Hello, parse


def greeting_with(flow: Flow, greeting: bytes, chunk: memoryview) -> bytes:
    """The greeting so far, with the client's new bytes; empty if it is not TLS, or was looked at before."""
    if flow.tls is not None or len(greeting) > MAX_HELLO:
        return greeting
    is_more = greeting if flow.client_payload else chunk[0] == HANDSHAKE
    return greeting + chunk if is_more else greeting


def look_at(flow: Flow, greeting: bytes) -> bytes:
    """Note in the record what it was. The origin answers now, so it has the whole ClientHello.

    Returns what is left to be looked at: nothing.
    """
    hello = parse(greeting)
    if isinstance(hello, Hello):
        flow.tls, flow.detected_protocol = tls_record(hello), "tls"
    return b""

"""What both sides of a relayed flow say first, noted in its record: a ClientHello, identification strings of SSH."""

from __future__ import annotations

import msgspec

from proxy.flow.flow import Flow
from proxy.flow.hello import tls_record
from proxy.flow.record import SSHRecord
from proxy.wire.client_hello import HANDSHAKE, MAX_HELLO, Hello, parse
from proxy.wire.ssh_identification import MAX_LINE, START, identification

NOTHING = SSHRecord()


def greeting_with(flow: Flow, greeting: bytes, chunk: memoryview) -> bytes:
    """The greeting so far, with the client's new bytes, as long as the origin has not answered.

    Empty if it is no TLS, or was looked at before. Of SSH, the client's identification string is noted at once.
    """
    if flow.tls is not None or len(greeting) > MAX_HELLO:
        return greeting
    if not flow.client_payload and chunk[0] == START[0]:
        _note(flow, chunk, "client_version")
    is_more = greeting if flow.client_payload else chunk[0] == HANDSHAKE
    return greeting + chunk if is_more and not flow.origin_payload else greeting


def look_at(flow: Flow, greeting: bytes, chunk: memoryview) -> bytes:
    """Note in the record what it was. The origin answers now, by `chunk`, so it has the whole ClientHello.

    Returns what is left to be looked at: nothing.
    """
    if chunk[0] == START[0]:
        _note(flow, chunk, "server_version")
    if greeting and isinstance(hello := parse(greeting), Hello):
        flow.tls, flow.detected_protocol = tls_record(hello), "tls"
    return b""


def _note(flow: Flow, chunk: memoryview, side: str) -> None:
    """Either side of SSH may speak first."""
    if (version := identification(bytes(chunk[:MAX_LINE]))) is not None:
        flow.ssh = msgspec.structs.replace(flow.ssh or NOTHING, **{side: version})
        flow.detected_protocol = "ssh"

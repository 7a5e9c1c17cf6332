"""The first bytes of both sides of a relayed flow, noted in its record: a ClientHello, SSH identification strings."""

from __future__ import annotations

import msgspec

from proxy.flow.flow import Flow
from proxy.flow.hello import tls_record
from proxy.flow.record import SSHRecord
from proxy.wire.client_hello import HANDSHAKE, MAX_HELLO, Hello, parse
from proxy.wire.ssh_identification import MAX_LINE, START, identification

NOTHING = SSHRecord()


def greeting_with(flow: Flow, greeting: bytes, chunk: memoryview) -> bytes:
    """The greeting so far, with the client's new bytes, until the origin has answered.

    Empty if it is not TLS, or was examined before. An SSH client's identification string is noted at once.
    """
    if flow.tls is not None or len(greeting) > MAX_HELLO:
        return greeting
    if not flow.client_payload and chunk[0] == START[0]:
        _note(flow, chunk, "client_version")
    is_more = greeting if flow.client_payload else chunk[0] == HANDSHAKE
    return greeting + chunk if is_more and not flow.origin_payload else greeting


def look_at(flow: Flow, greeting: bytes, chunk: memoryview) -> bytes:
    """Note in the record what the greeting was. `chunk` is the origin's answer, so the ClientHello is complete.

    Returns the new greeting, which is empty.
    """
    if chunk[0] == START[0]:
        _note(flow, chunk, "server_version")
    if greeting and isinstance(hello := parse(greeting), Hello):
        flow.tls, flow.detected_protocol = tls_record(hello), "tls"
    return b""


def _note(flow: Flow, chunk: memoryview, side: str) -> None:
    """Note the SSH identification string of one side: either may speak first."""
    if (version := identification(bytes(chunk[:MAX_LINE]))) is not None:
        flow.ssh = msgspec.structs.replace(flow.ssh or NOTHING, **{side: version})
        flow.detected_protocol = "ssh"

"""The first bytes of both sides of a relayed flow, for its record: a ClientHello, SSH identification strings."""

from __future__ import annotations

import msgspec

from proxy.flow.flow import Flow
from proxy.flow.record import SSHRecord
from proxy.flow.tls import tls_record
from proxy.wire.client_hello import HANDSHAKE, MAX_HELLO, Hello, parse
from proxy.wire.ssh_identification import MAX_LINE, START, identification

NOTHING = SSHRecord()


def with_client_bytes(flow: Flow, client_hello: bytes, chunk: memoryview) -> bytes:
    """The client's first bytes so far with its new ones, until the origin has answered.

    Empty if it is not TLS, or was examined before. An SSH client's identification string is recorded at once.
    """
    if flow.tls is not None or len(client_hello) > MAX_HELLO:
        return client_hello
    if not flow.client_payload and chunk[0] == START[0]:
        _record_identification(flow, chunk, "client_version")
    is_more = client_hello if flow.client_payload else chunk[0] == HANDSHAKE
    return client_hello + chunk if is_more and not flow.origin_payload else client_hello


def record_first_bytes(flow: Flow, client_hello: bytes, chunk: memoryview) -> bytes:
    """Record what the first bytes were. `chunk` is the origin's answer, so the ClientHello is complete.

    Returns the bytes to keep: none.
    """
    if chunk[0] == START[0]:
        _record_identification(flow, chunk, "server_version")
    if client_hello and isinstance(hello := parse(client_hello), Hello):
        flow.tls, flow.detected_protocol = tls_record(hello), "tls"
    return b""


def _record_identification(flow: Flow, chunk: memoryview, side: str) -> None:
    """Record the SSH identification string of one side: either may speak first."""
    if (version := identification(bytes(chunk[:MAX_LINE]))) is not None:
        flow.ssh = msgspec.structs.replace(flow.ssh or NOTHING, **{side: version})
        flow.detected_protocol = "ssh"

"""The TLS part of a flow's record, made from its ClientHello."""

from __future__ import annotations

from proxy.flow.record import TLSRecord
from proxy.wire.client_hello import Hello


def tls_record(hello: Hello) -> TLSRecord:
    """The TLS part of the record of a flow that began with this ClientHello."""
    return TLSRecord(
        sni=hello.sni,
        alpn=",".join(hello.alpn) or None,
        version=hello.version,
        ja4=hello.ja4,
        has_ech=hello.has_ech,
    )

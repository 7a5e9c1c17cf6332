"""Packets for tests: built and read by scapy, the oracle of everything in `proxy.wire`."""

from __future__ import annotations

import struct
from ipaddress import ip_address
from typing import Any

from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6
from scapy.packet import Packet, Raw

from proxy.wire import ip
from proxy.wire.ip import IPPacket

CLIENT = {4: "100.96.0.2", 6: "fd00:96::2"}
ORIGIN = {4: "10.50.0.10", 6: "fd00:50::10"}
PROTOCOLS = {"tcp": ip.TCP, "udp": ip.UDP}

ports = st.integers(0, 65_535)
words = st.integers(0, 0xFFFFFFFF)
versions = st.sampled_from([4, 6])
payloads = st.binary(max_size=300)


def addresses(version: int) -> st.SearchStrategy[str]:
    """Addresses as text, of hosts and of anything else."""
    return st.ip_addresses(v=version).map(str)


def network(version: int, src: str | None = None, dst: str | None = None, **fields: Any) -> Packet:
    """An IP header of either family, from the client to the origin unless said otherwise; `ttl` fits both."""
    src, dst = src or CLIENT[version], dst or ORIGIN[version]
    if version == 4:
        return IP(src=src, dst=dst, **fields)
    if "ttl" in fields:
        fields["hlim"] = fields.pop("ttl")
    return IPv6(src=src, dst=dst, **fields)


def tcp_packet(version: int = 4, payload: bytes = b"", *, ttl: int = 64, **fields: Any) -> bytes:
    values = {"sport": 40_000, "dport": 80, "flags": "S", "seq": 1000, **fields}
    return bytes(network(version, ttl=ttl) / TCP(**values) / Raw(payload))


def udp_packet(version: int = 4, payload: bytes = b"hello", *, ttl: int = 64, **fields: Any) -> bytes:
    return bytes(network(version, ttl=ttl) / UDP(**{"sport": 40_000, "dport": 53, **fields}) / Raw(payload))


def ping_packet(version: int = 4, payload: bytes = b"ping", *, ident: int = 7, seq: int = 1) -> bytes:
    echo = ICMP(id=ident, seq=seq) if version == 4 else ICMPv6EchoRequest(id=ident, seq=seq)
    return bytes(network(version) / echo / Raw(payload))


def decode(packet: bytes) -> Packet:
    """What scapy reads in an IP packet of either family."""
    return IP(packet) if packet[0] >> 4 == 4 else IPv6(packet)


def recomputed(packet: bytes) -> bytes:
    """The same packet with every length and checksum as scapy computes them."""
    decoded = decode(packet)
    for layer in decoded.layers():
        for name in ("chksum", "cksum", "len", "plen"):
            if name in decoded[layer].fields:
                delattr(decoded[layer], name)
    return bytes(decoded)


def parsed(buffer: bytes | bytearray, start: int = 0) -> IPPacket:
    """What `wire` reads in a buffer that must hold a good packet."""
    packet = ip.parse(buffer, start, len(buffer))
    assert isinstance(packet, IPPacket), packet
    return packet


def pack(address: str) -> bytes:
    return ip_address(address).packed


def rfc1071(data: bytes) -> int:
    """The Internet checksum, word by word, as RFC 1071 4.1 writes it."""
    total = sum(struct.unpack(f"!{len(data) // 2}H", data[: len(data) & ~1]))
    if len(data) & 1:
        total += data[-1] << 8
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


@st.composite
def transport_packets(draw: st.DrawFn, protocols: tuple[str, ...] = ("tcp", "udp")) -> bytes:
    """TCP segments and UDP datagrams of both families with good checksums, any ports, flags and payload."""
    version, protocol, payload = draw(versions), draw(st.sampled_from(protocols)), draw(payloads)
    head = network(version, draw(addresses(version)), draw(addresses(version)), ttl=draw(st.integers(0, 255)))
    sport, dport = draw(ports), draw(ports)
    if protocol == "udp":
        return bytes(head / UDP(sport=sport, dport=dport) / Raw(payload))
    options: list[tuple[str, Any]] = draw(
        st.lists(st.sampled_from([("MSS", 1460), ("NOP", None), ("WScale", 7), ("SAckOK", b"")]), max_size=4)
    )
    flags = draw(st.integers(0, 255))
    segment = TCP(sport=sport, dport=dport, seq=draw(words), ack=draw(words), flags=flags, options=options)
    return bytes(head / segment / Raw(payload))

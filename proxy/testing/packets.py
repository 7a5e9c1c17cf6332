"""Builds packets of simulated hosts, and describes packets in a few words."""

from __future__ import annotations

import struct
from ipaddress import ip_address

from proxy.errors import DropReason
from proxy.wire import icmp, ip, tcp, udp
from proxy.wire.checksum import checksum, pseudo_header_sum

_TCP = struct.Struct("!HHIIBBHHH")
WINDOW = 65_535
FLAGS = {tcp.SYN: "S", tcp.FIN: "F", tcp.RST: "R", tcp.ACK: "A"}


def pack(address: str) -> bytes:
    """The address in network byte order."""
    return ip_address(address).packed


def segment(
    source: bytes, destination: bytes, ports: tuple[int, int], flags: int, sequence: int, acknowledged: int = 0,
    payload: bytes = b"",
) -> bytes:  # fmt: skip
    """A TCP segment with correct checksums."""
    fields = (*ports, sequence, acknowledged, 5 << 4, flags, WINDOW)
    length = _TCP.size + len(payload)
    pseudo = pseudo_header_sum(source + destination, ip.TCP, length)
    total = checksum(_TCP.pack(*fields, 0, 0) + payload, pseudo)
    return ip.header(source, destination, ip.TCP, length) + _TCP.pack(*fields, total, 0) + payload


def datagram(source: bytes, destination: bytes, ports: tuple[int, int], payload: bytes) -> bytes:
    """A UDP datagram with correct checksums."""
    body = udp.datagram(source + destination, *ports, payload)
    return ip.header(source, destination, ip.UDP, len(body)) + body


def echo_request(source: bytes, destination: bytes, identifier: int, payload: bytes) -> bytes:
    """An ICMP or ICMPv6 echo request."""
    version = 4 if len(source) == 4 else 6
    body = icmp.message(source + destination, icmp.ECHO_REQUESTS[version], 0, identifier << 16 | 1, payload)
    return ip.header(source, destination, ip.ICMP if version == 4 else ip.ICMPV6, len(body)) + body


def describe(packet: bytes) -> str:
    """A short description for tests to compare: `TCP SA`, `UDP 5 bytes`, `ICMP 3/13`, `ICMPv6 1/1`."""
    found = ip.parse(packet, 0, len(packet))
    if isinstance(found, DropReason):
        return f"no packet: {found}"
    if found.protocol == ip.TCP:
        flags = tcp.flags(packet, found)
        return "TCP " + "".join(letter for bit, letter in FLAGS.items() if flags & bit)
    if found.protocol == ip.UDP:
        return f"UDP {found.end - found.l4 - udp.HEADER_BYTES} bytes"
    name = "ICMP" if found.version == 4 else "ICMPv6"
    return f"{name} {packet[found.l4]}/{packet[found.l4 + 1]}"

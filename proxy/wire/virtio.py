"""The virtio-net header that stands before each packet when offload is on (virtio 1.2 5.1.6, linux/virtio_net.h)."""

from __future__ import annotations

import struct

HEADER_BYTES = 10
NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 4, 5, 0x80
NO_OFFLOAD = bytes(HEADER_BYTES)

_HEADER = struct.Struct("<BBHHHH")  # TUN uses the host's order; every platform that we meet is little-endian


def udp_header(ip_header: int, segment: int = 0) -> bytes:
    """For a UDP packet with a partial checksum; `segment` bytes of payload in each datagram, 0 for a single one."""
    kind = GSO_UDP_L4 if segment else GSO_NONE
    return _HEADER.pack(NEEDS_CSUM, kind, ip_header + 8, segment, ip_header, 6)


def gso_size(buffer: bytes | bytearray) -> int:
    """Bytes of payload in each segment of the packet that follows; 0 when it is a single one."""
    _, kind, _, size, _, _ = _HEADER.unpack_from(buffer)
    return size if kind else 0


def is_plausible(buffer: bytes | bytearray, packet_bytes: int) -> bool:
    """Whether offsets lie inside the packet and the type is known; the kernel's TUN checks the rest."""
    flags, kind, header, size, start, offset = _HEADER.unpack_from(buffer)
    if kind & ~GSO_ECN not in (GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4):
        return False
    if flags & NEEDS_CSUM and start + offset + 2 > packet_bytes:
        return False
    return kind == GSO_NONE or (bool(flags & NEEDS_CSUM) and size > 0 and header <= packet_bytes)

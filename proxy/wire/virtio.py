"""The virtio-net header before each packet when offload is on (virtio 1.2 5.1.6, linux/virtio_net.h)."""

from __future__ import annotations

import struct

HEADER_BYTES = 10
NEEDS_CSUM = 1
GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4, GSO_ECN = 0, 1, 4, 5, 0x80
NO_OFFLOAD = bytes(HEADER_BYTES)

_HEADER = struct.Struct("<BBHHHH")  # TUN uses the host's byte order; all supported platforms are little-endian


def udp_header(ip_header: int, segment: int = 0) -> bytes:
    """The header for UDP with a partial checksum, split into datagrams of `segment` payload bytes; 0: one datagram."""
    kind = GSO_UDP_L4 if segment else GSO_NONE
    return _HEADER.pack(NEEDS_CSUM, kind, ip_header + 8, segment, ip_header, 6)


def gso_size(buffer: bytes | bytearray) -> int:
    """Payload bytes in each segment of the packet that follows; 0: it is not segmented."""
    _, kind, _, size, _, _ = _HEADER.unpack_from(buffer)
    return size if kind else 0


def is_plausible(buffer: bytes | bytearray, packet_bytes: int) -> bool:
    """Whether the offsets are inside the packet and the type is known; the kernel's TUN driver checks the rest."""
    flags, kind, header, size, start, offset = _HEADER.unpack_from(buffer)
    if kind & ~GSO_ECN not in (GSO_NONE, GSO_TCPV4, GSO_TCPV6, GSO_UDP_L4):
        return False
    if flags & NEEDS_CSUM and start + offset + 2 > packet_bytes:
        return False
    return kind == GSO_NONE or (bool(flags & NEEDS_CSUM) and size > 0 and header <= packet_bytes)

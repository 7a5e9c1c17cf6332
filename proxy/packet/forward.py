"""Forwards one checked packet from tunnel to tunnel: the readable version of the hot loops' forwarding branches.

A router's work (RFC 1812 5.2, RFC 8200): decrement the TTL, respect the next tunnel's MTU, and change nothing else:
DSCP, ECN and DF stay.
"""

from __future__ import annotations

import struct

from proxy.errors import DropReason
from proxy.flow.path import KernelPath, Path
from proxy.flow.tenant import Carrier, is_kernel_forwarded
from proxy.packet import segment
from proxy.packet.fragment import split
from proxy.packet.translate import has_partial_checksum
from proxy.wire import tcp, virtio
from proxy.wire.checksum import update
from proxy.wire.ip import AH, ESP, FRAGMENT, GRE, ICMP, ICMPV6, SCTP, TCP, UDP, IPPacket

HEADERS = {4: 40, 6: 60}  # IP and TCP headers: MTU minus MSS
IPV6_MIN_MTU = 1280  # of every IPv6 link (RFC 8200 5)
TTL_UNIT = 0x0100  # in the IPv4 header's word with the TTL

_U16 = struct.Struct("!H")


def forward(
    buffer: bytearray, packet: IPPacket, arrival: Carrier, egress: Carrier, ident: int
) -> list[bytes] | DropReason:
    """The packets for `egress` with their virtio-net headers, or the reason for a drop. The caller answers TOO_BIG.

    `packet` must not expire here, and may be changed in place. `ident`: identification of any fragments. For packets to
    the kernel, size and TTL are left to the kernel.
    """
    start, to_kernel = packet.start, is_kernel_forwarded(arrival, egress)
    if start and not segment.is_consistent(buffer, packet):
        return DropReason.BAD_OFFLOAD
    gso = virtio.gso_size(buffer) if start else 0
    size = segment.segment_headers(buffer, packet) + gso if gso else packet.end - start
    if size > egress.mtu and packet.dont_fragment and not to_kernel and not _was_joined(packet, arrival, gso):
        return DropReason.TOO_BIG
    is_partial = has_partial_checksum(buffer, packet)
    if packet.protocol == TCP and tcp.flags(buffer, packet) & tcp.SYN:
        mss = min(arrival.mtu, egress.mtu) - HEADERS[packet.version]
        tcp.clamp_mss(buffer, packet.l4, mss, partial_checksum=is_partial)
    take_hops(buffer, packet, hops(arrival, egress))
    if to_kernel and packet.version == 6 and not packet.dont_fragment:
        return for_kernel(buffer, packet, ident)
    if egress.header_bytes and size <= egress.mtu:
        return [bytes(buffer[: packet.end]) if start else virtio.NO_OFFLOAD + buffer[: packet.end]]
    if gso:
        pieces = segment.segment(buffer, packet, gso)
        if isinstance(pieces, DropReason):
            return pieces
    else:
        if is_partial:
            segment.finish(buffer, packet)
        pieces = [bytes(buffer[start : packet.end])]
    prefix = virtio.NO_OFFLOAD[: egress.header_bytes]
    return [prefix + cut for piece in pieces for cut in split(piece, egress.mtu, ident)]


def _was_joined(packet: IPPacket, arrival: Carrier, gso: int) -> bool:
    """Whether the kernel may have reassembled the packet from IPv6 fragments, which it does not show.

    In that case a Packet Too Big would not help: its sender already fragments. TCP adapts its segments.
    """
    return packet.version == 6 and arrival.exit is not None and not gso and packet.protocol != TCP


def hops(arrival: Carrier, egress: Carrier) -> int:
    """How many hops the proxy counts as: one between tunnels; none between the kernel and a tunnel, as the kernel is
    the hop there; one besides the kernel between a tunnel and an interface on-ramp."""
    arriving = 0 if arrival.can_open_flows else arrival.kernel_hops
    leaving = 0 if egress.can_open_flows else egress.kernel_hops
    return 1 - arriving - leaving


def for_kernel(buffer: bytearray, packet: IPPacket, ident: int) -> list[bytes]:
    """The packets for the kernel's forwarding. The kernel does not fragment a whole IPv6 packet, so one that arrived in
    fragments leaves in fragments that fit every link (RFC 8200 5)."""
    if packet.version == 4 or packet.dont_fragment:
        return [bytes(buffer[: packet.end])]
    prefix = bytes(buffer[: packet.start])
    return [prefix + piece for piece in split(bytes(buffer[packet.start : packet.end]), IPV6_MIN_MTU, ident)]


def take_hops(buffer: bytearray, packet: IPPacket, hops: int) -> None:
    """Lower the TTL, and update the IPv4 checksum (RFC 1624). -1 undoes a decrement by the kernel."""
    if packet.version == 6:
        buffer[packet.start + 7] -= hops
    elif hops:
        buffer[packet.start + 8] -= hops
        (field,) = _U16.unpack_from(buffer, packet.start + 10)
        _U16.pack_into(buffer, packet.start + 10, update(field, -hops * TTL_UNIT % 0xFFFF))


def memoise(path: KernelPath, version: int, arrival: Carrier, egress: Carrier, number: int) -> None:
    """Let `path` forward plain packets unexamined. `number`: the flow's hash."""
    path.send, path.mtu = egress.sender(number), egress.mtu
    path.exit = egress.exit if is_kernel_forwarded(arrival, egress) else None
    if not isinstance(path, Path):
        return
    same = arrival.header_bytes == egress.header_bytes
    path.prefix = None if same else virtio.NO_OFFLOAD[: egress.header_bytes]
    peer_socket = egress.peer_socket(number)
    path.raw, path.peer_socket = None, None
    if peer_socket is not None and not arrival.header_bytes:
        path.raw, path.peer_socket, path.prefix = peer_socket.raw, peer_socket, peer_socket.headers[version]


def quoted_key(buffer: bytes | bytearray, packet: IPPacket) -> tuple[int, bytes] | None:
    """Protocol and flow key of the packet that the ICMP error in `packet` quotes, as sent; None if it has no flow.

    Quotes are truncated (RFC 792: 8 bytes after the header), so their lengths and checksums are not checked.
    """
    at, end = packet.l4 + 8, packet.end
    if packet.version == 4:
        if end - at < 20 or buffer[at] >> 4 != 4 or (buffer[at + 6] & 0x1F or buffer[at + 7]):
            return None
        protocol, addresses, l4 = buffer[at + 9], bytes(buffer[at + 12 : at + 20]), at + (buffer[at] & 15) * 4
    else:
        if end - at < 40 or buffer[at] >> 4 != 6:
            return None
        protocol, addresses, l4 = buffer[at + 6], bytes(buffer[at + 8 : at + 40]), at + 40
        if protocol == FRAGMENT and end - l4 >= 8 and not (buffer[l4 + 2] or buffer[l4 + 3] & 0xF8):
            protocol, l4 = buffer[l4], l4 + 8
    if protocol in (TCP, UDP, SCTP) and end - l4 >= 4:
        return protocol, addresses + bytes(buffer[l4 : l4 + 4])
    if protocol == (ICMP if packet.version == 4 else ICMPV6) and end - l4 >= 6:
        return protocol, addresses + bytes(buffer[l4 + 4 : l4 + 6])
    return (protocol, addresses) if protocol in (AH, ESP, GRE) else None

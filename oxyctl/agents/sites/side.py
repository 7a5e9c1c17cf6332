"""What all sides of tunnels have in common: counters, and how packets that are too big are handled."""

from __future__ import annotations

import errno
import time
from collections import Counter

from proxy.errors import DropReason
from proxy.wire import icmp, ip

BUDGET = 64  # packets per readiness event, so that no tunnel starves another
ERRORS_PER_S = 200  # ICMP errors that one side may send
MIN_IPV6_MTU = 1280  # RFC 8200 section 5: a tunnel must carry this much, fragmented if necessary

# The packets read in one event. Runs refer to them until they are flushed, so each packet has a slot of its own.
slots = [bytearray(ip.MAX_PACKET) for _ in range(BUDGET)]
views = [memoryview(slot) for slot in slots]


class Side:
    """One side of a tunnel's end: sends packets that arrived at the `other` side. Both share `drops`."""

    other: Side

    def __init__(self, drops: Counter[DropReason]) -> None:
        self.packets = self.bytes = 0  # sent by this side
        self.drops = drops
        self._next_error = 0.0

    def send(self, packet: memoryview) -> None:
        """Send a packet that `is_whole`, now or at the next `flush`; its bytes must not change until then."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send waiting packets."""

    def close(self) -> None:
        """Release its descriptors."""

    def count_failure(self, error: OSError) -> None:
        """Count a packet that the kernel did not accept for a reason other than its size."""
        full = error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)
        self.drops[DropReason.TUNNEL_FULL if full else DropReason.TUNNEL_CLOSED] += 1

    def reject_too_big(self, packet: memoryview, mtu: int) -> None:
        """Drop a packet that is larger than `mtu`, and report the MTU to its sender (RFC 1191, RFC 8201)."""
        self.drops[DropReason.TOO_BIG] += 1
        now = time.monotonic()
        if now < self._next_error:
            self.drops[DropReason.RATE_LIMITED] += 1
            return
        answer = too_big_error(bytes(packet), mtu)
        if answer is not None:
            self._next_error = now + 1 / ERRORS_PER_S
            self.other.send(memoryview(answer))
            self.other.flush()


def is_whole(packet: memoryview) -> bool:
    """Whether the packet has at least an IP header without options."""
    size = len(packet)
    return size >= 20 and (packet[0] >> 4 == 4 or (size >= 40 and packet[0] >> 4 == 6))


def destination(packet: memoryview) -> bytes:
    """The destination address: 4 or 16 bytes."""
    return bytes(packet[16:20] if packet[0] < 0x60 else packet[24:40])


def may_fragment(packet: memoryview) -> bool:
    """Whether a packet that is too big may still be sent, in an outer packet that is fragmented."""
    if packet[0] < 0x60:
        return not packet[6] & 0x40
    return len(packet) <= MIN_IPV6_MTU


def too_big_error(packet: bytes, mtu: int) -> bytes | None:
    """The ICMP error that reports the MTU to the sender of `packet`, or None if none may be sent (RFC 1122 3.2.2).

    Its source is the packet's destination: this machine's kernel would drop an error from one of its own addresses, and
    the proxy one from an address outside the site.
    """
    header = ip.parse(packet, 0, len(packet))
    if isinstance(header, DropReason) or header.fragment_offset:
        return None
    if not ip.is_unicast(header.source) or not ip.is_unicast(header.destination):
        return None
    is_icmp = header.protocol == (ip.ICMP if header.version == 4 else ip.ICMPV6)
    if is_icmp and (header.l4 >= header.end or icmp.is_error(header.version, packet[header.l4])):
        return None
    return icmp.error(header.destination, packet[: header.end], icmp.TOO_BIG, mtu)

"""What all legs of tunnels have in common: counters, and what becomes of a packet that is too big."""

from __future__ import annotations

import errno
import time
from collections import Counter

from proxy.errors import DropReason
from proxy.wire import icmp, ip

BUDGET = 64  # packets per readiness event, so that no tunnel starves another
ERRORS_PER_S = 200  # ICMP errors of one leg
MIN_IPV6_MTU = 1280  # RFC 8200 5: a tunnel has to carry that much, in fragments if need be

# What is read in one event. Runs of packets refer to it until they are flushed, so each packet has a place of its own.
slots = [bytearray(ip.MAX_PACKET) for _ in range(BUDGET)]
views = [memoryview(slot) for slot in slots]


class Leg:
    """Where packets leave a tunnel's end. `other` is where they came in; `drops` are of both."""

    other: Leg

    def __init__(self, drops: Counter[DropReason]) -> None:
        self.packets = self.bytes = 0  # which left here
        self.drops = drops
        self._next_error = 0.0

    def send(self, packet: memoryview) -> None:
        """Have a packet leave here, that `is_whole`: now, or at the next `flush`; until then its bytes must stay."""
        raise NotImplementedError

    def flush(self) -> None:
        """Send what waits."""

    def close(self) -> None:
        """Give back what it holds."""

    def fail(self, error: OSError) -> None:
        """The kernel did not take a packet, for another reason than its size."""
        full = error.errno in (errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM)
        self.drops[DropReason.TUNNEL_FULL if full else DropReason.TUNNEL_CLOSED] += 1

    def refuse(self, packet: memoryview, mtu: int) -> None:
        """Drop a packet that is larger than `mtu`, and tell its sender (RFC 1191, RFC 8201)."""
        self.drops[DropReason.TOO_BIG] += 1
        now = time.monotonic()
        if now < self._next_error:
            self.drops[DropReason.RATE_LIMITED] += 1
            return
        answer = too_big(bytes(packet), mtu)
        if answer is not None:
            self._next_error = now + 1 / ERRORS_PER_S
            self.other.send(memoryview(answer))
            self.other.flush()


def is_whole(packet: memoryview) -> bool:
    """Whether an IP header without options is all there."""
    size = len(packet)
    return size >= 20 and (packet[0] >> 4 == 4 or (size >= 40 and packet[0] >> 4 == 6))


def destination(packet: memoryview) -> bytes:
    """4 or 16 bytes."""
    return bytes(packet[16:20] if packet[0] < 0x60 else packet[24:40])


def may_fragment(packet: memoryview) -> bool:
    """Whether a packet that is too big goes on all the same, in an outer packet that is cut into fragments."""
    if packet[0] < 0x60:
        return not packet[6] & 0x40
    return len(packet) <= MIN_IPV6_MTU


def too_big(packet: bytes, mtu: int) -> bytes | None:
    """The ICMP error that tells the sender of `packet` the MTU, or None when none may be sent (RFC 1122 3.2.2).

    It comes from where the packet was going: an address of this machine would be dropped by its own kernel when the
    error comes out of a device, and one that is not the site's by the proxy.
    """
    found = ip.parse(packet, 0, len(packet))
    if isinstance(found, DropReason) or found.fragment_offset:
        return None
    if not ip.is_unicast(found.source) or not ip.is_unicast(found.destination):
        return None
    is_icmp = found.protocol == (ip.ICMP if found.version == 4 else ip.ICMPV6)
    if is_icmp and (found.l4 >= found.end or icmp.is_error(found.version, packet[found.l4])):
        return None
    return icmp.error(found.destination, packet[: found.end], icmp.TOO_BIG, mtu)

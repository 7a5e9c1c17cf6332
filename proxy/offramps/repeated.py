"""Further connections to a destination that was decided a moment ago: given back at once, entered in batches.

Where neither policy nor hook is asked, the second SYN of a client to the same address and port has the same answer. It
is written back to the kernel before anything else is done with it; what a flow needs beyond that waits until the batch
of packets is over, where caches are warm and nothing is parsed twice (docs/performance.md has the cost by phase).
Limits hold as for every flow. Who looks into the tenant's table afterwards finds the flow there.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable

from proxy.errors import DropReason
from proxy.flow.tenant import Carrier, Tenant
from proxy.packet.observed import Begun
from proxy.packet.plane import Plane
from proxy.wire.checksum import fold, ones_sum, pseudo_header_sum
from proxy.wire.ip import TCP
from proxy.wire.virtio import NEEDS_CSUM

SYN, OPENING = 0x02, 0x17  # FIN, SYN, RST, ACK: of these, the first packet of a connection has SYN alone
MOST_WAITING = 64  # connections: what one batch of packets can bring
MOST_DECIDED = 65_536  # places that are remembered
MOST_HOPS = 255
NOTHING: dict[bytes, object] = {}
HOP = 0x100  # of an IPv4 header, in the word that holds TTL and protocol

# First byte, TOS, total length, fragment offset, TTL, protocol, header checksum, addresses and ports
_get4 = struct.Struct("!BBHxxHBBH12s").unpack_from
_get6 = struct.Struct("!HxxHBB36s").unpack_from  # version and class, payload length, next header, hop limit, the same
_put_sum = struct.Struct("!H").pack_into


class RepeatedConnections:
    """Of one interface on-ramp."""

    def __init__(self, ramp: Carrier, fd: int, plane: Plane, reserve: Callable[[Tenant], bool]) -> None:
        """`fd`: the device that SYNs come from and are written to. `reserve(tenant)`: whether conntrack may hold one
        more connection for it."""
        self._ramp, self._fd, self._plane, self._reserve = ramp, fd, plane, reserve
        self._decided: dict[bytes, str | None] = {}  # egress address, by client and by address and port beyond
        self._begun: dict[bytes, Begun] = {}  # by key

    def learn(self, key: bytes, egress_ip: str | None) -> None:
        """A connection with this flow key was let out. Where a network has routes, each flow chooses for itself."""
        if len(self._decided) < MOST_DECIDED and self._ramp.network.routes is None:
            self._decided[_place(key)] = egress_ip

    def forget(self) -> None:
        """Addresses, routes and what conntrack can hold may have changed: look again."""
        self._decided.clear()

    def take(self, buffer: bytearray, end: int) -> bool:
        """Give the packet back to the kernel if it begins a connection whose answer is known; whether it was one."""
        v = self._ramp.header_bytes
        if not self._decided or end < v + 40 or buffer[1] or self._plane.asks():
            return False
        first = buffer[v]
        if first == 0x45:
            _, tos, length, fragment, hops, protocol, ip_sum, key = _get4(buffer, v)
            l4 = v + 20
            if length != end - v or fragment & 0x3FFF:
                return False
        elif first >> 4 == 6 and end >= v + 60:
            head, length, protocol, hops, key = _get6(buffer, v)
            l4, tos, ip_sum = v + 40, head >> 4 & 0xFF, None
            if length != end - l4:
                return False
        else:
            return False
        if protocol != TCP or buffer[l4 + 13] & OPENING != SYN or l4 + (buffer[l4 + 12] >> 4) * 4 != end:
            return False  # data in a SYN is rare
        place = _place(key)
        if place not in self._decided or not self._may_begin(buffer, l4, end, key, hops):
            return False
        if ip_sum is None:
            buffer[v + 7] = hops + 1
        else:  # one hop more than it counts on the way through: it has counted before (RFC 1624)
            buffer[v + 8] = hops + 1
            _put_sum(buffer, v + 10, (ip_sum - HOP) % 0xFFFF)
        self._give_back(buffer, v, l4, end, tos, key, self._decided[place])
        return True

    def enter(self) -> None:
        """Let those that have begun meanwhile be flows."""
        if not self._begun:
            return
        begun, self._begun = self._begun, {}
        self._ramp.tenant.count -= len(begun)
        for each in begun.values():
            self._plane.open_repeated(self._ramp, TCP, each)

    def _may_begin(self, buffer: bytearray, l4: int, end: int, key: bytes, hops: int) -> bool:
        """Whether the segment is whole, its sender may send here, nothing has its place, and no limit is reached."""
        ramp = self._ramp
        if key in self._begun or key in ramp.flows.get(TCP, NOTHING) or hops == MOST_HOPS:
            return False
        if not buffer[0] & NEEDS_CSUM and not _is_sound(buffer, l4, end, key):
            return False
        if not ramp.owns(key[: (len(key) - 4) // 2]):
            return False
        return ramp.tenant.refusal(time.monotonic()) is None and self._reserve(ramp.tenant)

    def _give_back(
        self, buffer: bytearray, v: int, l4: int, end: int, tos: int, key: bytes, egress_ip: str | None
    ) -> None:
        begun = Begun(key, bytes(buffer[l4 + 4 : l4 + 16]), end - v, tos, time.monotonic(), time.time_ns(), egress_ip)
        try:
            os.write(self._fd, memoryview(buffer)[:end])
        except OSError:
            self._ramp.tenant.drops[DropReason.KERNEL_IP] += 1
            return
        self._ramp.tenant.count += 1
        self._begun[key] = begun
        if len(self._begun) >= MOST_WAITING:
            self.enter()


def _place(key: bytes) -> bytes:
    """Of a flow key: all but the client's port."""
    return key[:-4] + key[-2:]


def _is_sound(buffer: bytearray, l4: int, end: int, key: bytes) -> bool:
    """Whether the checksum of the TCP segment holds."""
    return fold(ones_sum(buffer[l4:end]) + pseudo_header_sum(key[:-4], TCP, end - l4)) == 0xFFFF

"""Decisions about recent connections, cached: further ones to the same destination are sent on at once.

If neither policy nor hooks are asked, a client's second SYN to the same address and port gets the same decision. It is
written back to the kernel before anything else is done; the rest of a flow's setup waits until the end of the batch of
packets, where caches are warm and nothing is parsed twice (the cost by phase is in docs/performance-notes.md). Limits
hold as for every flow. Readers of the tenant's table find the flow there afterwards.
"""

from __future__ import annotations

import os
import struct
import time
from collections.abc import Callable

from proxy.errors import DropReason
from proxy.flow.keys import reverse_key
from proxy.flow.tenant import Carrier, Tenant
from proxy.packet.forward import HEADERS
from proxy.packet.observed import SentSYN
from proxy.packet.plane import Plane
from proxy.wire.checksum import fold, ones_sum, pseudo_header_sum
from proxy.wire.ip import TCP
from proxy.wire.virtio import NEEDS_CSUM

SYN, OPENING = 0x02, 0x17  # of FIN, SYN, RST and ACK, a connection's first packet has SYN alone
MAX_PENDING = 64  # connections: the most that one batch of packets can bring
MAX_CACHED = 65_536  # destinations
MAX_TTL = 255
CHECKSUM_AT = 16  # offset in a TCP header
MSS_OPTION = b"\x02\x04"
NOTHING: dict[bytes, object] = {}
HOP = 0x100  # one hop in the word of an IPv4 header that holds TTL and protocol

# First byte, TOS, total length, fragment offset, TTL, protocol, header checksum, addresses and ports
_get4 = struct.Struct("!BBHxxHBBH12s").unpack_from
_get6 = struct.Struct("!HxxHBB36s").unpack_from  # version and class, payload length, next header, hop limit, key
_put_sum = struct.Struct("!H").pack_into
_get_partial = struct.Struct("<HH").unpack_from  # start and offset of the checksum in a virtio-net header

_Known = tuple[int, int, int, int | None, bytes]  # offset of TCP, TOS, TTL, IPv4 header checksum, flow key


class CachedDecisions:
    """Code shared by exits and on-ramps: the cache, and the checks of new connections."""

    def __init__(self, egress: Carrier, plane: Plane, reserve: Callable[[Tenant], bool]) -> None:
        """`reserve(tenant)`: whether conntrack may hold one more connection for it."""
        self._egress, self._plane, self._reserve = egress, plane, reserve
        self._decided: dict[bytes, str | None] = {}  # egress address, by client address, destination address and port
        self._pending: dict[bytes, SentSYN] = {}  # by flow key

    def learn(self, key: bytes, egress_ip: str | None) -> None:
        """Record that a connection with this flow key was allowed. In networks with routes each flow is routed anew."""
        if len(self._decided) < MAX_CACHED and self._egress.network.routes is None:
            self._decided[_cache_key(key)] = egress_ip

    def forget(self) -> None:
        """Forget all decisions: addresses, routes or conntrack's free space may have changed."""
        self._decided.clear()

    def _known(self, carrier: Carrier, buffer: bytearray, end: int) -> _Known | None:
        """The SYN in the buffer, if it opens a connection whose decision is known, and is valid; otherwise None."""
        v = carrier.header_bytes
        if not self._decided or end < v + 40 or (v and buffer[1]) or self._plane.asks():
            return None
        first = buffer[v]
        if first == 0x45:
            _, tos, length, fragment, hops, protocol, ip_sum, key = _get4(buffer, v)
            l4 = v + 20
            if length != end - v or fragment & 0x3FFF:
                return None
        elif first >> 4 == 6 and end >= v + 60:
            head, length, protocol, hops, key = _get6(buffer, v)
            l4, tos, ip_sum = v + 40, head >> 4 & 0xFF, None
            if length != end - l4:
                return None
        else:
            return None
        if protocol != TCP or buffer[l4 + 13] & OPENING != SYN or l4 + (buffer[l4 + 12] >> 4) * 4 != end:
            return None  # data in a SYN is rare
        if _cache_key(key) not in self._decided or not self._may_begin(carrier, buffer, l4, end, key):
            return None
        return l4, tos, hops, ip_sum, key

    def _may_begin(self, carrier: Carrier, buffer: bytearray, l4: int, end: int, key: bytes) -> bool:
        """Whether the segment is valid, its source may send here, and no flow has the same key."""
        if key in self._pending or key in carrier.flows.get(TCP, NOTHING):
            return False
        if not carrier.header_bytes or not buffer[0] & NEEDS_CSUM:
            if not _has_valid_checksum(buffer, l4, end, key):
                return False
        elif _get_partial(buffer, 6) != (l4 - carrier.header_bytes, CHECKSUM_AT):
            return False
        return carrier.owns(key[: (len(key) - 4) // 2])

    def _reserve_one(self, tenant: Tenant) -> bool:
        """Count one more connection. Returns whether the limits allow it."""
        return tenant.refusal(time.monotonic()) is None and self._reserve(tenant)


class RampDecisions(CachedDecisions):
    """Decisions about connections of one interface on-ramp, whose flows are opened in batches."""

    def __init__(self, ramp: Carrier, fd: int, plane: Plane, reserve: Callable[[Tenant], bool]) -> None:
        """`fd`: the device that SYNs come from and are written to."""
        super().__init__(ramp, plane, reserve)
        self._ramp, self._fd = ramp, fd

    def take(self, buffer: bytearray, end: int) -> bool:
        """Give the packet back to the kernel, and return True, if it opens a connection whose decision is known."""
        known = self._known(self._ramp, buffer, end)
        if known is None:
            return False
        l4, tos, hops, ip_sum, key = known
        v = self._ramp.header_bytes
        if hops == MAX_TTL or not self._reserve_one(self._ramp.tenant):
            return False
        if ip_sum is None:
            buffer[v + 7] = hops + 1
        else:  # TTL + 1, as the kernel decrements it again (RFC 1624)
            buffer[v + 8] = hops + 1
            _put_sum(buffer, v + 10, (ip_sum - HOP) % 0xFFFF)
        self._return_to_kernel(buffer, v, l4, end, tos, key, self._decided[_cache_key(key)])
        return True

    def open_pending(self) -> None:
        """Open the flows whose SYN was sent meanwhile."""
        if not self._pending:
            return
        pending, self._pending = self._pending, {}
        self._ramp.tenant.count -= len(pending)
        for each in pending.values():
            self._plane.open_sent(self._ramp, TCP, each, self._ramp)

    def _return_to_kernel(
        self, buffer: bytearray, v: int, l4: int, end: int, tos: int, key: bytes, egress_ip: str | None
    ) -> None:
        syn = SentSYN(key, bytes(buffer[l4 + 4 : l4 + 16]), end - v, tos, time.monotonic(), time.time_ns(), egress_ip)
        try:
            os.write(self._fd, memoryview(buffer)[:end])
        except OSError:
            self._ramp.tenant.drops[DropReason.KERNEL_IP] += 1
            return
        self._ramp.tenant.count += 1
        self._pending[key] = syn
        if len(self._pending) >= MAX_PENDING:
            self.open_pending()


class ExitDecisions(CachedDecisions):
    """Decisions about connections of tunnels that leave by one exit. Their replies pass through the proxy, so the flows
    are opened at once."""

    def take(self, tunnel: Carrier, buffer: bytearray, end: int) -> bool:
        """Send the packet on if it opens a connection whose decision is known. Returns whether it did."""
        known = self._known(tunnel, buffer, end)
        if known is None:
            return False
        l4, tos, hops, ip_sum, key = known
        egress, tenant, v = self._egress, tunnel.tenant, tunnel.header_bytes
        if ip_sum is not None and int.from_bytes(buffer[v:l4]) % 0xFFFF:  # a valid header sums to 0
            return False
        mss = min(tunnel.mtu, egress.mtu) - HEADERS[4 if len(key) == 12 else 6]
        if hops < 2 or end - v > egress.mtu or not _has_mss_within(buffer, l4, end, mss):
            return False
        if reverse_key(key) in egress.flows.get(TCP, NOTHING) or not self._reserve_one(tenant):
            return False
        syn = SentSYN(
            key, bytes(buffer[l4 + 4 : l4 + 16]), end - v, tos, time.monotonic(), time.time_ns(),
            self._decided[_cache_key(key)],
        )  # fmt: skip
        egress.send(memoryview(buffer)[:end])
        self._plane.open_sent(tunnel, TCP, syn, egress)
        return True


def _has_mss_within(buffer: bytearray, l4: int, end: int, mss: int) -> bool:
    """Whether the first option of a SYN is an MSS, as it nearly always is, and small enough."""
    return end >= l4 + 24 and buffer[l4 + 20 : l4 + 22] == MSS_OPTION and buffer[l4 + 22] << 8 | buffer[l4 + 23] <= mss


def _cache_key(key: bytes) -> bytes:
    """A flow key without the client's port."""
    return key[:-4] + key[-2:]


def _has_valid_checksum(buffer: bytearray, l4: int, end: int, key: bytes) -> bool:
    """Whether the checksum of the TCP segment is valid."""
    return fold(ones_sum(buffer[l4:end]) + pseudo_header_sum(key[:-4], TCP, end - l4)) == 0xFFFF

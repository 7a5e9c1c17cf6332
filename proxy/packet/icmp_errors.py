"""ICMP errors of our own: for which packets, from which address, and at what rate."""

from __future__ import annotations

from proxy.errors import DropReason
from proxy.flow.tenant import Carrier, Tenant
from proxy.wire import icmp, ip
from proxy.wire.icmp import ErrorKind, Report
from proxy.wire.ip import IPPacket

# of a proxy without a gateway address in the tunnel: the dummy address of RFC 7600 4.8, and one of our own
DUMMIES = {4: bytes([192, 0, 0, 8]), 6: bytes.fromhex("fd6f7879000000000000000000000001")}
PER_SECOND, BURST = 100.0, 50.0  # per tenant; Linux: icmp_msgs_per_sec 1000, burst 50 for the whole host


class IcmpErrors:
    """Answers packets with errors, rate-limited per tenant (RFC 1812 4.3.2.8, RFC 4443 2.4 (f))."""

    def __init__(self) -> None:
        self._buckets: dict[str, tuple[float, float]] = {}

    def answer(
        self,
        carrier: Carrier,
        kind: ErrorKind,
        buffer: bytes | bytearray,
        packet: IPPacket,
        now: float,
        *,
        rest: int = 0,
    ) -> bool:
        """Send the client an error about the packet in `buffer`. Returns whether one was allowed and could be sent."""
        if packet.fragment_offset or self._is_icmp_error(buffer, packet):
            return False
        return self.quote(carrier, kind, bytes(buffer[packet.start : packet.end]), now, rest=rest)

    def quote(
        self,
        carrier: Carrier,
        kind: ErrorKind,
        quoted: bytes,
        now: float,
        *,
        source: bytes | None = None,
        rest: int = 0,
    ) -> bool:
        """As `answer`, for the packet `quoted`, as the client sent it. By default `source` is our own address in the
        tunnel, as it is for any router (RFC 1812 4.3.2.4)."""
        if not self._may_send(carrier.tenant, now):
            carrier.tenant.drops[DropReason.RATE_LIMITED] += 1
            return False
        version = quoted[0] >> 4
        source = source or carrier.gateways.get(version) or DUMMIES[version]
        carrier.deliver(icmp.error(source, quoted, kind, rest))
        return True

    def pass_on(self, carrier: Carrier, report: Report, quoted: bytes, now: float) -> bool:
        """Pass on an error of the network about our own packet, as an error about the client's packet `quoted`."""
        kind = ErrorKind((report.kind, report.code), (report.kind, report.code))
        family = 4 if quoted[0] >> 4 == 4 else 16
        source = report.offender if report.offender and len(report.offender) == family else None
        rest = report.info
        if (family, report.kind) == (4, icmp.PARAMETER_PROBLEM):
            rest <<= 24  # IPv4's pointer is the first byte of the word (RFC 792), ICMPv6's the whole word
        return self.quote(carrier, kind, quoted, now, source=source, rest=rest)

    def _is_icmp_error(self, buffer: bytes | bytearray, packet: IPPacket) -> bool:
        protocol = ip.ICMP if packet.version == 4 else ip.ICMPV6
        if packet.protocol != protocol or packet.l4 >= packet.end:
            return False
        return icmp.is_error(packet.version, buffer[packet.l4])

    def _may_send(self, tenant: Tenant, now: float) -> bool:
        tokens, at = self._buckets.get(tenant.name, (BURST, now))
        tokens = min(BURST, tokens + (now - at) * PER_SECOND)
        allowed = tokens >= 1
        self._buckets[tenant.name] = (tokens - allowed, now)
        return allowed

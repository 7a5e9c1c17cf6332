"""Packets that wait for the verdict on their flow: a few per flow, and a limited number of bytes per tenant."""

from __future__ import annotations

from proxy.errors import DropReason
from proxy.flow.tenant import Tenant
from proxy.wire.ip import IPPacket

MAX_PACKETS = 64  # per flow: several times the first flight of a QUIC client


class HeldPackets:
    """The packets of one flow after its first."""

    __slots__ = ("_packets", "_tenant")

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._packets: tuple[tuple[bytes, IPPacket], ...] = ()

    def add(self, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Keep a packet. Returns the reason if it is dropped."""
        tenant = self._tenant
        is_full = len(self._packets) >= MAX_PACKETS
        if is_full or tenant.held_bytes + packet.end > tenant.settings.limits.bytes_held:
            return DropReason.HELD
        tenant.held_bytes += packet.end
        self._packets += ((bytes(buffer[: packet.end]), packet),)
        return None

    def take(self) -> tuple[tuple[bytes, IPPacket], ...]:
        """Return the waiting packets, and hold them no longer."""
        packets, self._packets = self._packets, ()
        self._tenant.held_bytes -= sum(packet.end for _, packet in packets)
        return packets

    def drop_all(self) -> None:
        """Drop and count the waiting packets."""
        if self._packets:
            self._tenant.drops[DropReason.HELD] += len(self.take())

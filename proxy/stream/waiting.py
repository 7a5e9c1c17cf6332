"""Packets that wait until their flow is decided: few for each flow, and a bounded number for each tenant."""

from __future__ import annotations

from proxy.errors import DropReason
from proxy.flow.tenant import Tenant
from proxy.wire.ip import IPPacket

MAX_WAITING = 64  # of one flow: the first flight of a QUIC client fits several times


class Waiting:
    """The packets of one flow behind its first."""

    __slots__ = ("_packets", "_tenant")

    def __init__(self, tenant: Tenant) -> None:
        self._tenant = tenant
        self._packets: tuple[tuple[bytes, IPPacket], ...] = ()

    def add(self, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Keep a packet, or say why not."""
        tenant = self._tenant
        is_full = len(self._packets) >= MAX_WAITING
        if is_full or tenant.held_bytes + packet.end > tenant.settings.limits.bytes_held:
            return DropReason.HELD
        tenant.held_bytes += packet.end
        self._packets += ((bytes(buffer[: packet.end]), packet),)
        return None

    def take(self) -> tuple[tuple[bytes, IPPacket], ...]:
        """Return the waiting packets, and stop holding them."""
        waiting, self._packets = self._packets, ()
        self._tenant.held_bytes -= sum(packet.end for _, packet in waiting)
        return waiting

    def give_up(self) -> None:
        """Drop and count the waiting packets."""
        if self._packets:
            self._tenant.drops[DropReason.HELD] += len(self.take())

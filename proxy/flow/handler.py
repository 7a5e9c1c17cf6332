"""What handles the packets and the timer of an open flow."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from proxy.errors import DropReason
from proxy.flow.record import CloseReason
from proxy.wire.ip import IPPacket

if TYPE_CHECKING:
    from proxy.flow.tenant import Carrier


class FlowHandler(ABC):
    """Handles one open flow. Its methods are called by the packet plane and by the flow's life cycle; those that take a
    packet return the reason for its drop, if it was dropped."""

    __slots__ = ()

    @abstractmethod
    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Handle a checked packet, of either direction, for which no path is memoised."""

    def error(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Handle an ICMP error that quotes a packet of the flow. By default it is dropped."""
        return DropReason.ICMP_UNSUPPORTED

    def catch_up(self, number: int) -> None:  # noqa: B027
        """Before a SYN with this sequence number is handled, learn what the kernel has logged about the flow.

        By default the kernel does not carry it.
        """

    def is_retransmission(self, buffer: bytearray, packet: IPPacket) -> bool:
        """Whether this packet, which could open a flow, is a retransmission that belongs to the ended flow."""
        return False

    @abstractmethod
    def expired(self, now: float) -> None:
        """Act on the flow's timer."""

    @abstractmethod
    def end(self, reason: CloseReason) -> None:
        """End the flow. Does nothing if it has ended."""

    def replaced(self) -> None:  # noqa: B027
        """Stop sending to the client: a later flow has the same addresses and ports. By default nothing is sent."""

"""A SYN that is held until the origin has answered: its bytes, its options, and how to refuse it."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from proxy.flow.flow import Flow
from proxy.flow.tenant import Carrier
from proxy.packet.forward import HEADERS
from proxy.packet.icmp_errors import IcmpErrors
from proxy.wire import icmp, tcp
from proxy.wire.ip import MAX_PACKET, IPPacket


class HeldSyn:
    """The latest SYN. A retransmission with fewer options, or a new connection, replaces the earlier one."""

    __slots__ = ("_arrived", "_carrier", "_errors", "_refusal", "data", "packet")

    def __init__(self, carrier: Carrier, errors: IcmpErrors, buffer: bytearray, packet: IPPacket) -> None:
        self._carrier, self._errors = carrier, errors
        self._refusal: Callable[[], None] | None = None
        self._arrived = 0
        self.hold(buffer, packet)

    def hold(self, buffer: bytearray, packet: IPPacket) -> None:
        """Keep the bytes of the SYN, and the offsets of its parts."""
        self.data, self.packet = bytes(buffer[: packet.end]), packet
        self._arrived += 1

    def forget(self) -> None:
        """Drop the bytes, which are no longer needed."""
        self.data = b""

    def count(self, flow: Flow) -> None:
        """The flow ends. If it does before the SYN was released, which counts it, these are all of its packets."""
        if flow.client_path.packets:
            return
        size = self.packet.end - self.packet.start
        flow.client_path.packets, flow.client_path.octets = self._arrived, self._arrived * size
        if "r" in flow.history:
            flow.origin_path.packets, flow.origin_path.octets = 1, HEADERS[self.packet.version]

    def is_reset_by(self, buffer: bytearray, packet: IPPacket) -> bool:
        """Whether the RST in `packet` is for this SYN, and not for an earlier connection (RFC 9293 3.10.7.4)."""
        return self._distance(buffer, packet) < MAX_PACKET

    def is_same(self, buffer: bytearray, packet: IPPacket) -> bool:
        """Whether the SYN in `packet` is a retransmission of this one."""
        return self._distance(buffer, packet) == 0

    def is_refused_again(self, buffer: bytearray, packet: IPPacket) -> bool:
        """Whether the SYN in `packet` retransmits this refused one, sent before the refusal had arrived."""
        return self._refusal is not None and self.is_same(buffer, packet)

    def refuse(self, error: icmp.ErrorKind | None) -> None:
        """Answer the SYN, and each retransmission: with the ICMP error, or with an RST if None."""
        self._refuse(self._reset if error is None else partial(self._quote_error, error))

    def pass_on(self, report: icmp.Report) -> None:
        """Refuse with the ICMP error that a router or the origin's host sent in response to our own SYN."""
        self._refuse(partial(self._pass_on_report, report))

    def refuse_again(self) -> bool:
        """Answer a retransmission as the first SYN was answered. Returns False if the SYN was not refused."""
        if self._refusal is None:
            return False
        self._refusal()
        return True

    def _refuse(self, answer: Callable[[], None]) -> None:
        self._refusal = answer
        answer()

    def _reset(self) -> None:
        self._carrier.deliver(tcp.reset_for(self.data, self.packet))

    def _quote_error(self, error: icmp.ErrorKind) -> None:
        self._errors.quote(self._carrier, error, self.data[self.packet.start :], time.monotonic())

    def _pass_on_report(self, report: icmp.Report) -> None:
        self._errors.pass_on(self._carrier, report, self.data[self.packet.start :], time.monotonic())

    def _distance(self, buffer: bytearray, packet: IPPacket) -> int:
        """By how much the sequence number of `packet` exceeds that of the SYN, modulo 2^32."""
        return (tcp.sequence(buffer, packet) - tcp.sequence(self.data, self.packet)) % (1 << 32)

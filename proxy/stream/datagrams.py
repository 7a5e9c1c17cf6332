"""What UDP sessions and echo flows share: packets that wait for the verdict, idle timers, how they end."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.record import CloseReason
from proxy.flow.tenant import Carrier
from proxy.offramps.sockets import connect_failure, shortage
from proxy.packet.icmp_errors import IcmpErrors
from proxy.poller import Poller
from proxy.settings.model import Timeouts
from proxy.stream.lifecycle import Lifecycle
from proxy.wire import icmp
from proxy.wire.ip import IPPacket

MAX_WAITING = 64  # datagrams of one flow until its verdict: the first flight of a QUIC client fits several times


@dataclass(slots=True)
class DatagramPlane:
    """What all flows of one protocol share; opens them as `kind`."""

    kind: Callable[[DatagramPlane, Flow], DatagramFlow]
    poller: Poller
    lifecycle: Lifecycle
    errors: IcmpErrors
    timeouts: Timeouts
    udp_offload: bool  # super-datagrams may be given to tunnels with offload
    mappings: dict[tuple[Carrier, bytes, int], Any] = field(default_factory=dict)  # of UDP, by clients' endpoints

    def open(self, flow: Flow, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Ask whether the flow may be, make its socket, and send its first packet."""
        handler = self.kind(self, flow)
        if not handler.reserve():
            return DropReason.NO_DESCRIPTORS
        flow.offramp, flow.history = "tunnel" if flow.egress else "socket", "D"
        held = bytes(buffer[: packet.end])
        self.lifecycle.begin(flow, handler, partial(handler.decided, held, packet))
        return None


class DatagramFlow:
    """One flow of datagrams."""

    __slots__ = ("_waiting", "flow", "plane")

    def __init__(self, plane: DatagramPlane, flow: Flow) -> None:
        self.plane, self.flow = plane, flow
        self._waiting: tuple[tuple[bytes, IPPacket], ...] = ()  # behind the first, until the verdict

    def reserve(self) -> bool:
        """Whether there are the descriptors that it needs; `release` gives them back."""
        raise NotImplementedError

    def connect(self) -> None:
        """Open the origin's side; OSError when there is no way."""
        raise NotImplementedError

    def release(self) -> None:
        """Close the origin's side."""
        raise NotImplementedError

    def timeout_s(self) -> float:
        """How long this flow may be idle, as things stand."""
        raise NotImplementedError

    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """A checked packet of this flow that no path was memoised for."""
        raise NotImplementedError

    def is_repetition(self, buffer: bytearray, packet: IPPacket) -> bool:
        """Datagrams have no numbers: each may open a flow."""
        return False

    def wait(self, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Keep a packet until the verdict on its flow: few of them, and within what the tenant may hold."""
        flow = self.flow
        tenant = flow.tenant
        if flow.is_ended:
            return DropReason.STRAY
        if len(self._waiting) >= MAX_WAITING or tenant.held_bytes + packet.end > tenant.settings.limits.bytes_held:
            return DropReason.HELD
        tenant.held_bytes += packet.end
        self._waiting += ((bytes(buffer[: packet.end]), packet),)
        return None

    def _take_waiting(self) -> tuple[tuple[bytes, IPPacket], ...]:
        """What waited, which is then ours no more."""
        waiting, self._waiting = self._waiting, ()
        self.flow.tenant.held_bytes -= sum(packet.end for _, packet in waiting)
        return waiting

    def decided(self, held: bytes, packet: IPPacket, denial: str | None) -> None:
        """Hooks and policy have spoken about the flow whose first packet stands in `held`."""
        flow, plane = self.flow, self.plane
        if flow.is_ended:
            return
        if not plane.lifecycle.decide(flow, denial):
            plane.errors.answer(flow.carrier, icmp.PROHIBITED, held, packet, time.monotonic())
            self.end("denied")
            return
        try:
            self.connect()
        except OSError as error:
            reason, kind = connect_failure(error.errno or 0)
            if ours := shortage(error.errno or 0):
                flow.tenant.drops[ours] += 1
            plane.errors.answer(flow.carrier, kind or icmp.HOST_UNREACHABLE, held, packet, time.monotonic())
            self.end(reason)
            return
        for datagram, found in ((held, packet), *self._take_waiting()):
            if dropped := self.packet(flow.carrier, bytearray(datagram), found):
                flow.tenant.drops[dropped] += 1

    def connected(self) -> None:
        """Packets may pass."""
        self.plane.lifecycle.connected(self.flow)
        self.plane.lifecycle.watch_idle(self.flow, self.timeout_s(), time.monotonic())

    def count_reply(self, octets: int, payload: int, packets: int = 1) -> None:
        """The origin sent `payload` bytes, `octets` with headers."""
        flow = self.flow
        path = flow.origin_path
        if not path.packets and flow.connected_at is not None:
            flow.ttfb_ms = (time.monotonic() - flow.connected_at) * 1000
            flow.history += "d"
        path.packets += packets
        path.octets += octets
        flow.origin_payload += payload

    def expired(self, now: float) -> None:
        """The idle timer."""
        if self.plane.lifecycle.is_idle(self.flow, self.timeout_s(), now):
            self.end("client_idle_timeout")

    def end(self, reason: CloseReason) -> None:
        """Close the socket and forget the flow."""
        flow = self.flow
        if not flow.close(reason, time.time_ns()):
            return
        if self._waiting:
            flow.tenant.drops[DropReason.HELD] += len(self._take_waiting())
        self.release()
        self.plane.lifecycle.ended(flow)
        self.plane.lifecycle.removed(flow)

    def replaced(self) -> None:
        """Nothing of it is left: a datagram flow is gone as soon as it ends."""

    def crashed(self, error: BaseException) -> None:
        """A bug in this flow ends this flow."""
        self.end("proxy_error")

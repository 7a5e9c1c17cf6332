"""Code shared by UDP sessions and echo flows: packets that wait for the verdict, idle timers, and the end of flows."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from proxy.errors import DropReason
from proxy.flow.details import own_details
from proxy.flow.flow import Flow
from proxy.flow.handler import FlowHandler
from proxy.flow.record import CloseReason
from proxy.flow.tenant import Carrier
from proxy.offramps.sockets import connect_failure, shortage
from proxy.packet.icmp_errors import IcmpErrors
from proxy.poller import Poller
from proxy.settings.model import Timeouts
from proxy.stream.held_packets import HeldPackets
from proxy.stream.lifecycle import Lifecycle
from proxy.wire import icmp
from proxy.wire.ip import IPPacket


@dataclass(slots=True)
class DatagramPlane:
    """State shared by all flows of one protocol. Opens each as a `kind`."""

    kind: Callable[[DatagramPlane, Flow], DatagramFlow]
    poller: Poller
    lifecycle: Lifecycle
    errors: IcmpErrors
    timeouts: Timeouts
    udp_offload: bool  # whether tunnels with offload may be given super-datagrams
    mappings: dict[tuple[Carrier, bytes, int], Any] = field(default_factory=dict)  # UDP mappings by client endpoint

    def open(self, flow: Flow, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Open the flow's socket, and send its first packet."""
        handler = self.kind(self, flow)
        if not handler.reserve():
            return DropReason.NO_DESCRIPTORS
        flow.offramp, flow.history = "tunnel" if flow.egress else "socket", "D"
        first = bytes(buffer[: packet.end])
        self.lifecycle.begin(flow, handler, partial(handler.start, first, packet))
        return None


class DatagramFlow(FlowHandler):
    """One flow of datagrams."""

    __slots__ = ("details", "flow", "held_packets", "plane")

    def __init__(self, plane: DatagramPlane, flow: Flow) -> None:
        self.plane, self.flow = plane, flow
        self.details = own_details(flow)  # its byte counters
        self.held_packets: HeldPackets | None = None  # packets of a flow that its origin opened, until the verdict

    def reserve(self) -> bool:
        """Reserve the descriptors that the flow needs. Returns False if there are none; `release` gives them back."""
        raise NotImplementedError

    def connect(self) -> None:
        """Open the origin's side. Raises OSError if there is no route."""
        raise NotImplementedError

    def release(self) -> None:
        """Close the origin's side."""
        raise NotImplementedError

    def timeout_s(self) -> float:
        """The idle timeout in the flow's current state, in seconds."""
        raise NotImplementedError

    def hold(self, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Keep a packet until the verdict on its flow."""
        if self.flow.is_ended:
            return DropReason.STRAY
        if self.held_packets is None:
            self.held_packets = HeldPackets(self.flow.tenant)
        return self.held_packets.add(buffer, packet)

    def send_held(self) -> None:
        """Send the packets that waited for the verdict, as the flow is allowed."""
        if self.held_packets is not None:
            for data, packet in self.held_packets.take():
                if dropped := self.packet(self.flow.carrier, bytearray(data), packet):
                    self.flow.tenant.drops[dropped] += 1

    def start(self, first: bytes, packet: IPPacket) -> None:
        """Open the origin's side of an allowed flow, and send its first packet, which is in `first`."""
        flow, plane = self.flow, self.plane
        try:
            self.connect()
        except OSError as error:
            reason, kind = connect_failure(error.errno or 0)
            if shortage_reason := shortage(error.errno or 0):
                flow.tenant.drops[shortage_reason] += 1
            plane.errors.answer(flow.carrier, kind or icmp.HOST_UNREACHABLE, first, packet, time.monotonic())
            self.end(reason)
            return
        if dropped := self.packet(flow.carrier, bytearray(first), packet):
            flow.tenant.drops[dropped] += 1

    def connected(self) -> None:
        """Mark the flow as established, so that packets may pass."""
        self.plane.lifecycle.connected(self.flow)
        self.plane.lifecycle.watch_idle(self.flow, self.timeout_s(), time.monotonic())

    def count_reply(self, octets: int, payload: int, packets: int = 1) -> None:
        """Count `payload` bytes from the origin: `octets` with headers."""
        flow = self.flow
        path = flow.origin_path
        if not path.packets and flow.connected_at is not None:
            flow.ttfb_ms = (time.monotonic() - flow.connected_at) * 1000
            flow.history += "d"
        path.packets += packets
        path.octets += octets
        self.details.origin_payload += payload

    def expired(self, now: float) -> None:
        """Act on the idle timer."""
        if self.plane.lifecycle.is_idle(self.flow, self.timeout_s(), now):
            self.end("client_idle_timeout")

    def end(self, reason: CloseReason) -> None:
        """Close the socket and remove the flow."""
        flow = self.flow
        if not flow.close(reason, time.time_ns()):
            return
        if self.held_packets is not None:
            self.held_packets.drop_all()
        self.release()
        self.plane.lifecycle.ended(flow)
        self.plane.lifecycle.removed(flow)

    def crashed(self, error: BaseException) -> None:
        """End this flow, and no other, after a bug in it."""
        self.end("proxy_error")

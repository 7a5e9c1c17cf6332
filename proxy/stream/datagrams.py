"""What UDP sessions and echo flows share: a connected socket each, idle timers, the network's errors handed back."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.record import CloseReason
from proxy.flow.tenant import Carrier
from proxy.offramps.sockets import connect_failure, local_address, network_error, overflows, path_mtu, set_hop, shortage
from proxy.packet.icmp_errors import IcmpErrors
from proxy.poller import IN, Poller
from proxy.settings.model import Timeouts
from proxy.stream.lifecycle import Lifecycle
from proxy.wire import icmp
from proxy.wire.ip import IPPacket

BUDGET = 64  # reads per readiness event
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

    def open(self, flow: Flow, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Ask whether the flow may be, make its socket, and send its first packet."""
        handler = self.kind(self, flow)
        if handler.SOCKETS and not self.lifecycle.descriptors.take(flow.tenant, handler.SOCKETS, handler):
            return DropReason.NO_DESCRIPTORS
        flow.offramp, flow.history = "tunnel" if flow.egress else "socket", "D"
        held = bytes(buffer[: packet.end])
        self.lifecycle.begin(flow, handler, partial(handler.decided, held, packet))
        return None


class DatagramFlow:
    """One flow whose origin side is a connected datagram socket."""

    __slots__ = ("_hop", "_waiting", "flow", "plane", "sock")

    SOCKETS = 1

    def __init__(self, plane: DatagramPlane, flow: Flow) -> None:
        self.plane, self.flow = plane, flow
        self.sock: socket.socket | None = None
        self._hop: tuple[int, bool] | None = None
        self._waiting: tuple[tuple[bytes, IPPacket], ...] = ()  # behind the first, until the verdict

    def dial(self) -> socket.socket:
        """A socket that is connected to the flow's destination; OSError when there is no way."""
        raise NotImplementedError

    def timeout_s(self) -> float:
        """How long this flow may be idle, as things stand."""
        raise NotImplementedError

    def send(self, sock: socket.socket, buffer: bytearray, l4: int, end: int) -> DropReason | None:
        """Send the payload of the transport packet in `buffer[l4:end]` to the origin."""
        raise NotImplementedError

    def receive(self, sock: socket.socket) -> None:
        """Read one datagram from the origin and deliver it. BlockingIOError: there is none."""
        raise NotImplementedError

    def quote(self, payload: bytes) -> bytes:
        """The packet that the client sent with `payload`, as far as an ICMP error must quote it."""
        raise NotImplementedError

    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """A checked packet of this flow from the client."""
        if self.sock is None:
            return self.wait(buffer, packet)
        self.set_hop(self.sock, packet.ttl, packet.dont_fragment)
        return self.send(self.sock, buffer, packet.l4, packet.end)

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

    def connect(self) -> None:
        """Open the origin's side; OSError when there is no way."""
        sock, flow = self.dial(), self.flow
        self.sock = sock
        flow.origin, flow.egress_ip = flow.destination_text, local_address(sock)
        self.connected()
        self.plane.poller.watch(sock.fileno(), IN, self.ready, self.crashed)

    def connected(self) -> None:
        """Packets may pass."""
        self.plane.lifecycle.connected(self.flow)
        self.plane.lifecycle.watch_idle(self.flow, self.timeout_s(), time.monotonic())

    def ready(self, events: int) -> None:
        """The origin has answered, or the network has."""
        for _ in range(BUDGET):
            if self.sock is None:
                return
            try:
                self.receive(self.sock)
            except BlockingIOError:
                return
            except OSError:
                self.report_error()

    def report_error(self) -> None:
        """Hand the network's ICMP error on to the client, as coming from whoever sent it."""
        error = network_error(self.sock) if self.sock is not None else None
        if error is None:
            return
        self.plane.errors.pass_on(self.flow.carrier, error, self.quote(error.quoted), time.monotonic())

    def set_hop(self, sock: socket.socket, ttl: int, dont_fragment: bool) -> None:
        """Let the next packet to the origin have one hop less than the client gave it, and its wish about fragments."""
        if (ttl, dont_fragment) != self._hop:
            set_hop(sock, 4 if len(self.flow.source) == 4 else 6, ttl - 1, dont_fragment)
            self._hop = ttl, dont_fragment

    def too_big(self, sock: socket.socket, quoted: bytes) -> DropReason:
        """Tell the client the MTU of the way to the origin."""
        version = quoted[0] >> 4
        mtu = path_mtu(sock, version)
        self.plane.errors.quote(self.flow.carrier, icmp.TOO_BIG, quoted, time.monotonic(), rest=mtu)
        return DropReason.TOO_BIG

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
        if self.sock is not None:
            self.plane.poller.forget(self.sock.fileno())
            if lost := overflows(self.sock):
                flow.tenant.drops[DropReason.SOCKET_OVERFLOW] += lost
            self.sock.close()
            self.sock = None
        flow.carrier.sessions.pop(flow.key, None)
        if self.SOCKETS:
            self.plane.lifecycle.descriptors.give(flow.tenant, self.SOCKETS, self)
        self.plane.lifecycle.ended(flow)
        self.plane.lifecycle.removed(flow)

    def activity(self) -> int:
        return self.flow.activity()

    def evict(self) -> None:
        """Somebody needs the descriptor more."""
        self.end("evicted")

    def replaced(self) -> None:
        """Nothing of it is left: a datagram flow is gone as soon as it ends."""

    def crashed(self, error: BaseException) -> None:
        """A bug in this flow ends this flow."""
        self.end("proxy_error")

"""TCP flows: the SYN is held until the origin answers, then the kernel's own TCP takes the client's side.

OPENING -> DIALING -> HANDSHAKE -> RELAYING -> DRAINING -> LINGERING
   |          |           |
 denied   refused, unreachable, timeout: RST, ICMP or silence, as the origin's network said it
"""

from __future__ import annotations

import enum
import errno
import socket
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from proxy.errors import DropReason
from proxy.flow.flow import Flow, address_text
from proxy.flow.record import CloseReason
from proxy.flow.tenant import Carrier
from proxy.hooks import HookRunner
from proxy.kernel.bridge import Bridge
from proxy.kernel.dialer import Dialer, Leg
from proxy.offramps import sockets
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.translate import has_partial_checksum
from proxy.poller import ERROR, HANGUP, ONCE, OUT, Poller
from proxy.settings.model import Timeouts
from proxy.stream.lifecycle import IDLE_CHECKS, Lifecycle
from proxy.stream.relay import LINGER_RESET, Relay, unsent_bytes
from proxy.wire import icmp, ip, tcp
from proxy.wire.ip import MAX_PACKET, IPPacket

HANDSHAKE_S = 75.0  # the kernel repeats its SYN-ACK for 63 s (tcp_synack_retries 5)
YOUNG_S = 60.0  # a flow that lives longer gets keep-alive and is watched for idleness
LAST_PACKETS_S = 0.25  # after the sockets' end, before the totals are final
LINGER_S = 2.0  # the kernel's last ACKs and retransmissions still pass
DRAIN_CHECK_S = 0.5
SOCKETS = 2  # of one flow: the client's and the origin's
HEADERS = {4: 40, 6: 60}  # IP and TCP: what an MTU has that an MSS has not


class Stage(enum.Enum):
    """How far a flow has come."""

    OPENING = enum.auto()  # hooks and policy
    DIALING = enum.auto()  # the origin
    HANDSHAKE = enum.auto()  # of the client with our kernel
    RELAYING = enum.auto()
    DRAINING = enum.auto()  # the kernel still owes the client bytes
    LINGERING = enum.auto()


# Looking a member up by its class raises and catches an AttributeError in Python 3.11: 4 % of a short connection.
OPENING, DIALING, HANDSHAKE, RELAYING, DRAINING, LINGERING = Stage


@dataclass(slots=True)
class TcpPlane:
    """What all TCP flows share; opens them."""

    poller: Poller
    bridges: dict[int, Bridge]  # by bytes of virtio-net header: 0 plain, 10 with offload
    lifecycle: Lifecycle
    hooks: HookRunner
    errors: IcmpErrors
    timeouts: Timeouts
    dialer: Dialer

    def open(self, flow: Flow, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Hold the SYN in `packet` and begin to dial."""
        if not self.lifecycle.descriptors.take(flow.tenant, SOCKETS):
            flow.carrier.deliver(tcp.reset_for(buffer, packet))
            return DropReason.NO_DESCRIPTORS
        handler = TcpFlow(self, flow, buffer, packet)
        flow.level, flow.offramp, flow.history = "stream", "tunnel" if flow.egress else "socket", "S"
        self.lifecycle.begin(flow, handler, handler.decided)
        return None

    def accepted(self, flow: Flow, sock: socket.socket) -> None:
        """The client's handshake is done: `sock` is its end in our kernel."""
        flow.handler.accepted(sock)


class TcpFlow:
    """One flow on its way through the stages."""

    __slots__ = ("_began", "_bridge", "_client", "_flow", "_held", "_is_settled", "_leg", "_origin", "_plane",
                 "_refusal", "_relay", "_stage", "_syn")  # fmt: skip

    def __init__(self, plane: TcpPlane, flow: Flow, buffer: bytearray, packet: IPPacket) -> None:
        """`packet`: the SYN in `buffer`."""
        self._plane, self._flow = plane, flow
        self._hold(buffer, packet)
        self._bridge = plane.bridges[flow.carrier.header_bytes]
        self._stage = OPENING
        self._began = time.monotonic()
        self._origin: socket.socket | None = None
        self._leg: Leg | None = None  # of a flow that goes back to packets: what `_origin` is a part of
        self._client: socket.socket | None = None
        self._relay: Relay | None = None
        self._is_settled = False
        self._refusal: Callable[[], None] | None = None  # how the held SYN was answered

    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """A packet that no path is memoised for: before and after the relay, and oddly shaped ones during it."""
        if packet.source != self._flow.source:
            return DropReason.STRAY if self._leg is None else self._leg.packet(buffer, packet)
        flags = tcp.flags(buffer, packet)
        if self._stage in (OPENING, DIALING):
            if flags & tcp.RST and self._is_about_held(buffer, packet):
                self._flow.history += "R"
                self.end("client_reset")
                return None
            if flags & (tcp.SYN | tcp.ACK | tcp.RST | tcp.FIN) != tcp.SYN:
                return DropReason.STRAY
            self._hold(buffer, packet)  # repeated with fewer options, or dialled anew: the last one counts
            return DropReason.HELD
        if self._refusal is not None and flags & tcp.SYN:
            self._refusal()
            return DropReason.HELD
        if self._flow.virtual is None:
            return DropReason.STRAY
        reason = self._bridge.write(buffer, packet, self._flow.client_path)
        if self._stage is HANDSHAKE:
            if flags & tcp.RST and self._is_about_held(buffer, packet):
                self._flow.history += "R"
                self.end("client_reset")
            elif flags & tcp.ACK:
                self._bridge.accept(packet.version)
        return reason

    def error(self, carrier: Carrier, buffer: bytes | bytearray, packet: IPPacket) -> DropReason | None:
        """An ICMP error from either side, which quotes what our kernel sent there: the socket learns of it."""
        flow = self._flow
        if icmp.quoted_source(buffer, packet) != flow.source:
            return DropReason.STRAY if flow.virtual is None else self._bridge.report(buffer, packet, flow.virtual[2])
        return DropReason.STRAY if self._leg is None else self._leg.error(buffer, packet)

    def is_repetition(self, buffer: bytearray, packet: IPPacket) -> bool:
        """Whether the SYN in `packet` is the refused one again: its sender had not heard yet."""
        if self._refusal is None:
            return False
        return self._distance(buffer, packet) == 0

    def _is_about_held(self, buffer: bytearray, packet: IPPacket) -> bool:
        """Whether the RST in `packet` can mean the held SYN, and not an earlier connection (RFC 9293 3.10.7.4)."""
        return self._distance(buffer, packet) < MAX_PACKET

    def _hold(self, buffer: bytearray, packet: IPPacket) -> None:
        """Keep a SYN until it can be answered: its bytes, and where its parts stand in them."""
        self._held, self._syn = bytes(buffer[: packet.end]), packet

    def _distance(self, buffer: bytearray, packet: IPPacket) -> int:
        """How far behind the held SYN's sequence number that of `packet` is."""
        return (tcp.sequence(buffer, packet) - tcp.sequence(self._held, self._syn)) % (1 << 32)

    def decided(self, denial: str | None) -> None:
        """Hooks and policy have spoken."""
        flow = self._flow
        if flow.is_ended:
            return
        if self._plane.lifecycle.decide(flow, denial):
            self._dial()
        else:
            self._refuse(partial(self._answer, icmp.PROHIBITED))
            self.end("denied")

    def accepted(self, sock: socket.socket) -> None:
        """Both ends are sockets now: relay."""
        flow, plane = self._flow, self._plane
        origin, self._origin = self._origin, None
        if self._stage is not HANDSHAKE or origin is None:
            sock.close()
            return
        self._stage, self._client, self._held = RELAYING, sock, b""  # nothing asks for the SYN any more
        now = time.monotonic()
        flow.client_tcp_ms = (now - self._began) * 1000
        flow.history += "A"
        flow.client_path.send = None  # to the kernel, without a look
        plane.lifecycle.wheel.arm(flow, now + min(YOUNG_S, plane.timeouts.tcp_idle_s / IDLE_CHECKS))
        self._relay = Relay(plane.poller, flow, sock, origin, self._relayed)

    def expired(self, now: float) -> None:
        """The timer of the stage."""
        stage = self._stage
        if stage is LINGERING:
            self._fade(now)
        elif stage is DIALING:
            self.end("origin_timeout")  # and silence: the client's own timeout is due
        elif stage is HANDSHAKE:
            self.end("client_idle_timeout")
        elif stage is DRAINING:
            self._drain(now)
        elif not self._is_settled:
            self._settle(now)
        elif self._plane.lifecycle.is_idle(self._flow, self._idle_s(), now):
            self.end("client_idle_timeout")

    def _settle(self, now: float) -> None:
        """The flow is no short one: only now is it worth what long ones need (four system calls for each)."""
        self._is_settled = True
        if self._relay is not None:
            sockets.keep_alive(self._relay.origin.sock)
        self._plane.lifecycle.watch_idle(self._flow, self._idle_s(), now)

    def _idle_s(self) -> float:
        timeouts, history = self._plane.timeouts, self._flow.history
        return timeouts.tcp_half_closed_s if "F" in history or "f" in history else timeouts.tcp_idle_s

    def end(self, reason: CloseReason) -> None:
        """End the flow now, whatever its stage: both sides learn of it by RST."""
        if self._stage in (DRAINING, LINGERING):
            return
        if self._relay is not None:
            self._relay.abort(reason)
            return
        if self._origin is not None:
            self._plane.poller.forget(self._origin.fileno())
            self._origin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            self._origin.close()
            self._origin = None
        self._flow.carrier.paths.pop(self._flow.key, None)
        if self._flow.close(reason, time.time_ns()):
            self._linger()

    def replaced(self) -> None:
        """A later flow has the client's port: what the kernel still repeats of this one would disturb it."""
        self._release()

    def _dial(self) -> None:
        flow, plane = self._flow, self._plane
        self._stage, self._began = DIALING, time.monotonic()
        try:
            self._origin, code = self._make_origin()
        except OSError as error:
            self._failed(error.errno or 0)
            return
        flow.origin = flow.destination_text
        if code == 0:
            self._connected()
        elif code == errno.EINPROGRESS:
            plane.lifecycle.wheel.arm(flow, self._began + plane.timeouts.connect_s)
            plane.poller.watch(self._origin.fileno(), OUT | ONCE, self._dialed, self._crashed)
        else:
            self._failed(code)

    def _make_origin(self) -> tuple[socket.socket, int]:
        """A socket of the host's or of a leg's, and how far it is: 0 connected, EINPROGRESS, or why it failed."""
        flow = self._flow
        if flow.egress is None:
            return sockets.dial_tcp(flow.destination, flow.destination_port, flow.tenant.settings.egress)
        self._leg = self._plane.dialer.dial(flow, flow.egress)
        return self._leg.sock, self._leg.code

    def _dialed(self, events: int) -> None:
        assert self._origin is not None
        if events & (ERROR | HANGUP):
            code = self._origin.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
            if code:
                self._failed(code)
                return
        self._connected()

    def _connected(self) -> None:
        assert self._origin is not None
        flow, now = self._flow, time.monotonic()
        flow.origin_tcp_ms = (now - self._began) * 1000
        flow.egress_ip = sockets.local_address(self._origin) if self._leg is None else address_text(flow.source)
        sockets.forgive_errors(self._origin, flow.destination)
        flow.history += "h"
        self._stage, self._began = HANDSHAKE, now
        self._plane.lifecycle.connected(flow)
        self._plane.lifecycle.wheel.arm(flow, now + HANDSHAKE_S)
        self._release_syn()

    def _release_syn(self) -> None:
        """The origin has answered: so may we."""
        flow, buffer, packet = self._flow, bytearray(self._held), self._syn
        self._bridge.admit(flow)
        flow.client_path.send, flow.client_path.mtu = self._greeted, MAX_PACKET
        flow.carrier.paths[flow.key] = flow.client_path
        mss = flow.carrier.mtu - HEADERS[packet.version]
        tcp.clamp_mss(buffer, packet, mss, partial_checksum=has_partial_checksum(buffer, packet))
        if reason := self._bridge.write(buffer, packet, flow.client_path):
            flow.tenant.drops[reason] += 1

    def _greeted(self, data: memoryview) -> None:
        """The client's answer to our kernel's SYN-ACK, or what follows it. The pump has looked for flags and hops."""
        v, flow = self._flow.carrier.header_bytes, self._flow
        version = 4 if len(flow.source) == 4 else 6
        packet = IPPacket(
            version, v, v + (20 if version == 4 else 40), len(data), ip.TCP, 0, flow.source, flow.destination, 0, True
        )
        if reason := self._bridge.give(data, packet, flow.client_path):
            flow.tenant.drops[reason] += 1
        self._bridge.accept(version)

    def _failed(self, code: int) -> None:
        """The origin cannot be had: tell the client as the origin's network would have."""
        reason, error = sockets.connect_failure(code)
        if ours := sockets.shortage(code):
            self._flow.tenant.drops[ours] += 1
        report = sockets.network_error(self._origin) if self._origin is not None else None
        if report is not None:
            self._refuse(partial(self._pass_on, report))
            reason = "origin_unreachable" if reason == "proxy_error" else reason  # an errno that only ICMP can cause
        elif code == errno.ECONNREFUSED or code == errno.ECONNRESET:
            self._flow.history += "r"
            self._refuse(partial(self._answer, None))
        elif error is not None:
            self._refuse(partial(self._answer, error))
        self.end(reason)
        if self._plane.hooks.has("connect_failed"):
            self._plane.hooks.notify_soon("connect_failed", self._plane.lifecycle.look(self._flow))

    def _refuse(self, answer: Callable[[], None]) -> None:
        """Answer the held SYN, and each repetition of it while the flow is remembered."""
        self._refusal = answer
        answer()

    def _answer(self, error: icmp.ErrorKind | None) -> None:
        """Answer the held SYN: with RST, or with an ICMP error."""
        flow = self._flow
        if error is None:
            flow.carrier.deliver(tcp.reset_for(self._held, self._syn))
        else:
            quoted = self._held[self._syn.start :]
            self._plane.errors.quote(flow.carrier, error, quoted, time.monotonic())

    def _pass_on(self, report: icmp.Report) -> None:
        """Answer the held SYN with what a router or the origin's host said of ours."""
        flow = self._flow
        quoted = self._held[flow.carrier.header_bytes :]
        self._plane.errors.pass_on(flow.carrier, report, quoted, time.monotonic())

    def _relayed(self, reason: CloseReason) -> None:
        """The relay is over; the kernel may still owe either end of a tunnel what it has buffered."""
        self._relay = None
        flow = self._flow
        flow.history += {"client_reset": "R", "origin_reset": "r"}.get(reason, "")
        flow.close(reason, time.time_ns())
        flow.carrier.paths.pop(flow.key, None)  # a new SYN must be seen
        if self._leg is not None:
            self._leg.forget_answers()
        self._stage = DRAINING
        self._drain(time.monotonic())

    def _drain(self, now: float) -> None:
        assert self._client is not None
        flow = self._flow
        is_reset = flow.close_reason not in ("client_closed", "origin_closed")
        is_sent = unsent_bytes(self._client) <= 1 or flow.carrier.is_closed
        if self._leg is not None and flow.egress is not None and not flow.egress.is_closed:
            is_sent &= unsent_bytes(self._leg.sock) <= 1
        if is_reset or is_sent:
            self._linger()
        else:
            self._plane.lifecycle.wheel.arm(self._flow, now + DRAIN_CHECK_S)

    def _linger(self) -> None:
        """Close the sockets that are left; their last packets still find their way."""
        self._stage = LINGERING
        if self._leg is not None:
            self._leg.sock.close()
        if self._client is not None:
            self._client.close()
            self._client = None
        self._plane.lifecycle.descriptors.give(self._flow.tenant, SOCKETS)
        self._plane.lifecycle.wheel.arm(self._flow, time.monotonic() + LAST_PACKETS_S)

    def _fade(self, now: float) -> None:
        """First the record, then, when nothing can come any more, the flow itself."""
        flow, lifecycle = self._flow, self._plane.lifecycle
        if not flow.is_recorded:
            lifecycle.ended(flow)
            lifecycle.wheel.arm(flow, now + LINGER_S)
            return
        self._release()
        lifecycle.removed(flow)

    def _release(self) -> None:
        """Nothing passes between the flow's packets and the kernel any more."""
        self._bridge.release(self._flow)
        if self._leg is not None:
            self._leg.release()

    def _crashed(self, error: BaseException) -> None:
        self.end("proxy_error")

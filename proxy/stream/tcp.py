"""TCP flows: the SYN is held until the origin answers, then the kernel's own TCP takes the client's side."""

from __future__ import annotations

import errno
import socket
import time
from dataclasses import dataclass

from proxy.errors import DropReason
from proxy.flow.flow import Flow, address_text
from proxy.flow.handler import FlowHandler
from proxy.flow.record import CloseReason
from proxy.flow.tenant import Carrier
from proxy.kernel.bridge import Bridge
from proxy.kernel.dialer import Dialer, Leg
from proxy.kernel.tos import set_tos
from proxy.offramps import sockets
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.translate import has_partial_checksum
from proxy.poller import ERROR, HANGUP, ONCE, OUT, Poller
from proxy.settings.model import Timeouts
from proxy.stream.held_syn import HeldSyn
from proxy.stream.inspected_session import InspectedSession
from proxy.stream.inspectors import Inspectors
from proxy.stream.lifecycle import IDLE_CHECKS, Lifecycle
from proxy.stream.queues import is_dead
from proxy.stream.relay import LINGER_RESET, Relay
from proxy.stream.stages import CLOSING, DIALING, DRAINING, HANDSHAKE, LINGERING, RELAYING
from proxy.stream.undelivered import Undelivered
from proxy.wire import icmp, ip, tcp
from proxy.wire.ip import MAX_PACKET, IPPacket

HANDSHAKE_S = 75.0  # the kernel retransmits its SYN-ACK for 63 s (tcp_synack_retries 5)
YOUNG_S = 60.0  # older flows get keep-alive and idle checks
LAST_PACKETS_S = 0.25  # from the close of the sockets until the totals are final
LINGER_S = 2.0  # for the kernel's last ACKs and retransmissions
DRAIN_CHECK_S = 0.5
SOCKETS = 2  # per flow: the client's and the origin's
HEADERS = {4: 40, 6: 60}  # IP and TCP headers: MTU minus MSS


@dataclass(slots=True)
class TcpPlane:
    """State shared by all TCP flows. Opens them."""

    poller: Poller
    bridges: dict[int, Bridge]  # by size of the virtio-net header: 0 plain, 10 with offload
    lifecycle: Lifecycle
    errors: IcmpErrors
    timeouts: Timeouts
    dialer: Dialer
    inspectors: Inspectors | None = None

    def open(self, flow: Flow, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Hold the SYN in `packet` and begin to dial."""
        if not self.lifecycle.descriptors.take(flow.tenant, SOCKETS):
            flow.carrier.deliver(tcp.reset_for(buffer, packet))
            return DropReason.NO_DESCRIPTORS
        handler = TcpFlow(self, flow, buffer, packet)
        flow.level, flow.offramp, flow.history = "stream", "tunnel" if flow.egress else "socket", "S"
        self.lifecycle.begin(flow, handler, handler.dial)
        return None

    def accepted(self, flow: Flow, sock: socket.socket) -> None:
        """Handle the end of the client's handshake: `sock` is the accepted socket."""
        assert isinstance(flow.handler, TcpFlow)
        flow.handler.accepted(sock)


class TcpFlow(FlowHandler):
    """One TCP flow through its stages."""

    __slots__ = ("_bridge", "_client", "_flow", "_has_idle_checks", "_leg", "_origin", "_origin_tos", "_plane",
                 "_relay", "_stage", "_stage_began", "_syn", "_undelivered")  # fmt: skip

    def __init__(self, plane: TcpPlane, flow: Flow, buffer: bytearray, packet: IPPacket) -> None:
        """`packet`: the SYN in `buffer`."""
        self._plane, self._flow = plane, flow
        self._syn = HeldSyn(flow.carrier, plane.errors, buffer, packet)
        self._bridge = plane.bridges[flow.carrier.header_bytes]
        self._stage, self._stage_began = DIALING, time.monotonic()
        self._origin: socket.socket | None = None
        self._leg: Leg | None = None  # the leg of a flow that goes back to packets; its socket is `_origin`
        self._client: socket.socket | None = None
        self._relay: Relay | InspectedSession | None = None
        self._undelivered: Undelivered | None = None
        self._has_idle_checks, self._origin_tos = False, 0  # TOS of the origin's SYN-ACK, if the socket is a leg's

    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Handle a packet without a memoised path: before and after the relay, and unusual ones during it."""
        if packet.source != self._flow.source:
            return DropReason.STRAY if self._leg is None else self._packet_from_origin(buffer, packet)
        flags = tcp.flags(buffer, packet)
        if self._stage is DIALING:
            if flags & tcp.RST and self._syn.is_reset_by(buffer, packet):
                self._flow.history += "R"
                self.end("client_reset")
                return None
            if flags & (tcp.SYN | tcp.ACK | tcp.RST | tcp.FIN) != tcp.SYN:
                return DropReason.STRAY
            self._syn.hold(buffer, packet)
            return DropReason.HELD
        if flags & tcp.SYN and self._syn.refuse_again():
            return DropReason.HELD
        if self._flow.virtual is None:
            return DropReason.STRAY
        if flags & tcp.SYN and self._handle_client_reset():
            return DropReason.HELD  # it opens a new connection: its retransmission finds these ports free
        reason = self._bridge.write(buffer, packet, self._flow.client_path)
        if self._stage is DRAINING:
            self._finish_if_delivered()
        elif flags & tcp.RST and self._stage is RELAYING:
            self._handle_client_reset()  # do not wait for the poller: the next packet may be a SYN from the same port
        elif self._stage is HANDSHAKE:
            if flags & tcp.RST and self._syn.is_reset_by(buffer, packet):
                self._flow.history += "R"
                self.end("client_reset")
            elif flags & tcp.ACK:
                self._bridge.accept(packet.version)
        return reason

    def _packet_from_origin(self, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Handle a packet from the peer of the leg."""
        assert self._leg is not None
        if self._stage is DIALING:
            self._origin_tos = packet.tos
        reason = self._leg.packet(buffer, packet)
        self._finish_if_delivered()
        return reason

    def _handle_client_reset(self) -> bool:
        """Tell the relay of a reset from the client. Returns whether our kernel has accepted one."""
        if self._client is None or self._relay is None or not is_dead(self._client):
            return False
        self._relay.client_reset()
        return True

    def error(self, carrier: Carrier, buffer: bytes | bytearray, packet: IPPacket) -> DropReason | None:
        """Give the kernel's socket an ICMP error, from either side, that quotes a packet our kernel sent there."""
        flow = self._flow
        if icmp.quoted_source(buffer, packet) != flow.source:
            return DropReason.STRAY if flow.virtual is None else self._bridge.report(buffer, packet, flow.virtual[2])
        return DropReason.STRAY if self._leg is None else self._leg.error(buffer, packet)

    def is_retransmission(self, buffer: bytearray, packet: IPPacket) -> bool:
        """Whether the SYN in `packet` retransmits the refused one, sent before the refusal arrived; or comes too early,
        as the leg's peer knows this connection by the same addresses and has not received everything."""
        if self._undelivered is not None and self._leg is not None and self._undelivered.intact_sock is self._leg.sock:
            return True
        return self._syn.is_refused_again(buffer, packet)

    def accepted(self, sock: socket.socket) -> None:
        """Begin to relay, as both sides are sockets now."""
        flow, plane = self._flow, self._plane
        origin = self._origin
        if self._stage is not HANDSHAKE or origin is None:
            sock.close()
            return
        self._stage, self._client = RELAYING, sock
        self._syn.forget()
        if tos := flow.tenant.remark_tos(self._origin_tos):
            set_tos(sock, tos)
        now = time.monotonic()
        flow.client_tcp_ms = (now - self._stage_began) * 1000
        flow.history += "A"
        flow.client_path.send = None  # to the kernel, unexamined
        plane.lifecycle.wheel.arm(flow, now + min(YOUNG_S, plane.timeouts.tcp_idle_s / IDLE_CHECKS))
        plane.lifecycle.admission.pacer.start(flow, sock, origin)
        level = plane.inspectors.level_of(flow) if plane.inspectors is not None else None
        if level is None or plane.inspectors is None:
            self._start_relay(origin)
        else:
            self._relay = plane.inspectors.hand_over(flow, level, sock, origin, self._relay_ended, self._start_relay)

    def _start_relay(self, origin: socket.socket) -> None:
        """Relay a session that is not inspected, or that an inspector gave back, perhaps with a new `origin`."""
        assert self._client is not None
        self._origin = origin
        self._relay = Relay(self._plane.poller, self._flow, self._client, origin, self._side_broke, self._relay_ended)

    def expired(self, now: float) -> None:
        """Act on the timer of the stage."""
        stage = self._stage
        if stage is LINGERING:
            self._end_linger(now)
        elif stage is DIALING:
            self.end("origin_timeout")  # silently: the client's own timeout is about to expire
        elif stage is HANDSHAKE:
            self.end("client_idle_timeout")
        elif stage is DRAINING:
            self._drain(now)
        elif stage is CLOSING:
            self._abort_if_stalled(now)
        elif not self._has_idle_checks:
            self._start_idle_checks(now)
        elif self._plane.lifecycle.is_idle(self._flow, self._idle_s(), now):
            self.end("client_idle_timeout")

    def _start_idle_checks(self, now: float) -> None:
        """Set keep-alive and idle checks: only flows that last are worth these four system calls."""
        self._has_idle_checks = True
        if self._relay is not None and self._origin is not None:
            sockets.keep_alive(self._origin)
        self._plane.lifecycle.watch_idle(self._flow, self._idle_s(), now)

    def _idle_s(self) -> float:
        timeouts, history = self._plane.timeouts, self._flow.history
        return timeouts.tcp_half_closed_s if "F" in history or "f" in history else timeouts.tcp_idle_s

    def end(self, reason: CloseReason) -> None:
        """End the flow now, in any stage: both sides get an RST."""
        if self._stage in (DRAINING, LINGERING):
            self._finish_if_delivered()  # a closed tunnel is owed no more bytes
            return
        if self._relay is not None:
            self._relay.abort(reason)
            return
        if self._origin is not None:
            self._plane.poller.forget(self._origin.fileno())
            self._origin.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
        self._flow.carrier.paths.pop(self._flow.key, None)
        if self._flow.close(reason, time.time_ns()):
            self._syn.count(self._flow)
            self._linger()

    def replaced(self) -> None:
        """Stop retransmitting to the client, whose port a later flow uses. The origin still gets what was sent."""
        self._release()
        if self._relay is not None and self._undelivered is not None and self._undelivered.intact_sock is self._client:
            self._relay.abort("client_reset")
        self._finish_if_delivered()

    def dial(self) -> None:
        """Connect to the origin. The client gets the outcome."""
        flow, plane = self._flow, self._plane
        try:
            self._origin, code = self._open_origin()
        except OSError as error:
            self._failed(error.errno or 0)
            return
        flow.origin = flow.target_text
        if code == 0:
            self._connected()
        elif code == errno.EINPROGRESS:
            plane.lifecycle.wheel.arm(flow, self._stage_began + plane.timeouts.connect_s)
            plane.poller.watch(self._origin.fileno(), OUT | ONCE, self._dialed, self._crashed)
        else:
            self._failed(code)

    def _open_origin(self) -> tuple[socket.socket, int]:
        """A socket of the host or of a leg, and its state: 0 if connected, EINPROGRESS, or the errno of the failure."""
        flow = self._flow
        tos = flow.tenant.remark_tos(self._syn.packet.tos)
        if flow.egress is None:
            return sockets.dial_tcp(*flow.target, flow.tenant.settings.egress, tos)
        self._leg = self._plane.dialer.dial(flow, flow.egress, tos)
        return self._leg.sock, self._leg.code

    def _dialed(self, events: int) -> None:
        assert self._origin is not None
        if events & (ERROR | HANGUP) and (code := self._origin.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)):
            self._failed(code)
        else:
            self._connected()

    def _connected(self) -> None:
        assert self._origin is not None
        flow, now = self._flow, time.monotonic()
        flow.origin_tcp_ms = (now - self._stage_began) * 1000
        flow.egress_ip = sockets.local_address(self._origin) if self._leg is None else address_text(flow.source)
        sockets.forgive_errors(self._origin, flow.target[0])
        flow.history += "h"
        self._stage, self._stage_began = HANDSHAKE, now
        self._plane.lifecycle.connected(flow)
        self._plane.lifecycle.wheel.arm(flow, now + HANDSHAKE_S)
        self._release_syn()

    def _release_syn(self) -> None:
        """Let our kernel answer the client's SYN, as the origin has answered."""
        flow, buffer, packet = self._flow, bytearray(self._syn.data), self._syn.packet
        self._bridge.admit(flow)
        flow.client_path.send, flow.client_path.mtu = self._handshake_packet, MAX_PACKET
        flow.carrier.paths[flow.key] = flow.client_path
        mss = flow.carrier.mtu - HEADERS[packet.version]
        tcp.clamp_mss(buffer, packet.l4, mss, partial_checksum=has_partial_checksum(buffer, packet))
        if reason := self._bridge.write(buffer, packet, flow.client_path):
            flow.tenant.drops[reason] += 1

    def _handshake_packet(self, data: memoryview) -> None:
        """Handle the client's packets up to `accept`. The pump has checked flags and TTL."""
        flow = self._flow
        packet = ip.bare(flow.carrier.header_bytes, len(data), ip.TCP, flow.source, flow.destination)
        if reason := self._bridge.give(data, packet, flow.client_path):
            flow.tenant.drops[reason] += 1
        self._bridge.accept(packet.version)

    def _failed(self, code: int) -> None:
        """Refuse the client as the origin's network would have."""
        reason, error = sockets.connect_failure(code)
        if shortage := sockets.shortage(code):
            self._flow.tenant.drops[shortage] += 1
        report = sockets.network_error(self._origin) if self._origin is not None else None
        if report is not None:
            self._syn.pass_on(report)
            reason = "origin_unreachable" if reason == "proxy_error" else reason  # only ICMP causes such an errno
        elif code == errno.ECONNREFUSED or code == errno.ECONNRESET:
            self._flow.history += "r"
            self._syn.refuse(None)
        elif error is not None:
            self._syn.refuse(error)
        self.end(reason)
        self._plane.lifecycle.connect_failed(self._flow)

    def _side_broke(self, reason: CloseReason, intact_sock: socket.socket) -> None:
        """End the flow after one side has broken, so that its ports can be reused."""
        self._stage = CLOSING
        self._close_flow(reason, intact_sock)
        self._plane.lifecycle.wheel.arm(self._flow, time.monotonic() + DRAIN_CHECK_S)

    def _abort_if_stalled(self, now: float) -> None:
        """Give up on the intact side if it accepts nothing."""
        assert self._relay is not None
        if self._undelivered is not None and self._undelivered.is_stalled(now):
            self._relay.abort(self._flow.close_reason or "unknown")
        else:
            self._plane.lifecycle.wheel.arm(self._flow, now + DRAIN_CHECK_S)

    def _relay_ended(self, reason: CloseReason, is_cut: bool) -> None:
        """Handle the end of the relay. Kernels may still have to deliver buffered data."""
        self._relay = None
        if self._stage is not CLOSING:
            self._close_flow(reason, None)
        self._stage = DRAINING
        if is_cut:
            self._linger()
            return
        assert self._undelivered is not None
        if self._leg is None and self._origin is not None and self._undelivered.intact_sock is not self._origin:
            self._origin.close()
        self._drain(time.monotonic())
        self._check_delivery()

    def _close_flow(self, reason: CloseReason, intact_sock: socket.socket | None) -> None:
        """Close the flow with its reason. From now on a SYN opens a new flow."""
        flow = self._flow
        assert self._client is not None
        assert self._origin is not None
        self._undelivered = Undelivered(flow, self._client, self._origin, intact_sock, time.monotonic())
        flow.history += {"client_reset": "R", "origin_reset": "r"}.get(reason, "")
        flow.close(reason, time.time_ns())
        flow.carrier.paths.pop(flow.key, None)
        if self._leg is not None:
            self._leg.forget_answers()

    def _drain(self, now: float) -> None:
        """Wait until every peer has received everything."""
        assert self._undelivered is not None
        if self._undelivered.can_close(now):
            self._linger()
        else:
            self._plane.lifecycle.wheel.arm(self._flow, now + DRAIN_CHECK_S)

    def _finish_if_delivered(self) -> None:
        """Stop draining at once if the last packet has acknowledged everything."""
        if self._stage is DRAINING and self._undelivered is not None and not self._undelivered.pending():
            self._drain(time.monotonic())

    def _check_delivery(self) -> None:
        self._finish_if_delivered()
        if self._stage is DRAINING and self._undelivered is not None:
            self._undelivered.schedule_check(self._plane.poller, self._check_delivery)

    def _linger(self) -> None:
        """Close the remaining sockets, whose last packets are still forwarded."""
        self._stage = LINGERING
        for sock in filter(None, (self._client, self._origin)):
            sock.close()
        self._client = self._origin = self._undelivered = None
        self._plane.lifecycle.descriptors.give(self._flow.tenant, SOCKETS)
        self._plane.lifecycle.wheel.arm(self._flow, time.monotonic() + LAST_PACKETS_S)

    def _end_linger(self, now: float) -> None:
        """Publish the record. Next time, when no more packets can arrive, remove the flow."""
        flow, lifecycle = self._flow, self._plane.lifecycle
        if not flow.is_recorded:
            lifecycle.ended(flow)
            lifecycle.wheel.arm(flow, now + LINGER_S)
            return
        self._release()
        lifecycle.removed(flow)

    def _release(self) -> None:
        """Remove the mappings between the flow's packets and the kernel."""
        self._bridge.release(self._flow)
        if self._leg is not None:
            self._leg.release()

    def _crashed(self, error: BaseException) -> None:
        self.end("proxy_error")

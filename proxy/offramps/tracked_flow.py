"""State of one flow whose packets are forwarded unread: its handshake, its end, and its idle timeout.

Only the flags that begin and end a TCP connection are read, and its sequence numbers.
"""

from __future__ import annotations

import struct
import time

from proxy.flow.flow import PROTOCOL_NUMBERS, Flow
from proxy.flow.handler import FlowHandler
from proxy.flow.record import CloseReason
from proxy.offramps.packet_flows import PacketFlows
from proxy.packet.observed import Observed
from proxy.packet.routes import flow_hash
from proxy.wire import icmp, tcp
from proxy.wire.ip import IPPacket

DNS = 53
FIN, SYN, RST, ACK = tcp.FIN, tcp.SYN, tcp.RST, tcp.ACK
MAX_SYN_BYTES = 1 << 16  # what a SYN may bring, itself counted
TIMESTAMPS = 12  # bytes of the option, padded (RFC 7323 appendix A)

_number = struct.Struct("!I").unpack_from


class TrackedFlow(FlowHandler):
    """A flow, with what its packets have shown."""

    __slots__ = ("_plane", "flow")

    def __init__(self, plane: PacketFlows, flow: Flow) -> None:
        self._plane, self.flow = plane, flow

    def end(self, reason: CloseReason) -> None:
        """End the flow."""
        raise NotImplementedError

    @property
    def is_carried(self) -> bool:
        """Whether the kernel carries the flow by itself: idle time and totals are then the kernel's."""
        return self.flow.egress is self.flow.carrier

    def observed(self, seen: Observed, is_outward: bool, arrived_ns: int) -> None:
        """Handle a logged segment that begins or ends a connection carried by the kernel. It may come late, so it has
        its time of arrival."""
        flow, flags = self.flow, seen.last[9]
        if flow.ended_ns is not None or flow.tracked is None:
            return
        if flags & SYN and not is_outward:
            self._answered(flags)
            if arrived_ns:
                flow.origin_tcp_ms = (arrived_ns - flow.started_ns) / 1e6
            flow.tracked[1].options = TIMESTAMPS * seen.has_timestamps
        self._track(seen.last, flags, seen.payload, is_outward)

    def entry_destroyed(self, *, is_answered: bool) -> None:
        """End a flow that conntrack has dropped, which it does at once if the only answer to a SYN is an RST."""
        flow = self.flow
        if flow.protocol == "tcp" and flow.state == "new":
            flow.add_history("r" if is_answered else "")
            self.end("origin_refused" if is_answered else "origin_timeout")
        else:
            self.end("client_idle_timeout")

    def icmp_error_observed(self, data: bytes, packet: IPPacket) -> None:
        """Handle an ICMP error in `data`, on its way to the client."""
        if self.flow.protocol == "tcp" and self.flow.state == "new" and not self.flow.is_ended:
            self._end_unreachable(packet.version, data[packet.l4], data[packet.l4 + 1])

    def _end_unreachable(self, version: int, kind: int, code: int) -> None:
        if icmp.is_unreachable(version, kind, code):
            refused = (kind, code) in (icmp.PORT_UNREACHABLE.v4, icmp.PORT_UNREACHABLE.v6)
            self.end("origin_refused" if refused else "origin_unreachable")

    def _answered(self, flags: int) -> None:
        """Handle the origin's first packet."""
        flow, now = self.flow, time.monotonic()
        if flow.protocol != "tcp":
            flow.ttfb_ms = (now - flow.started_at) * 1000
            flow.add_history("d")
            self._watch_idle()
        elif flags & tcp.SYN and flow.state == "new":
            flow.origin_tcp_ms = (now - flow.started_at) * 1000
            flow.add_history("h")
            self._connected()

    def _connected(self) -> None:
        self._plane.lifecycle.connected(self.flow)
        self._watch_idle()

    def _watch_idle(self) -> None:
        if self.is_carried:
            return
        self._plane.lifecycle.watch_idle(self.flow, self._timeout_s(), time.monotonic())

    @property
    def _is_half_open(self) -> bool:
        """Whether the client has not acknowledged the origin's SYN yet. Conntrack soon forgets such a connection."""
        return "h" in self.flow.history and "A" not in self.flow.history

    def _timeout_s(self) -> float:
        flow, timeouts = self.flow, self._plane.timeouts
        if flow.protocol == "tcp":
            if flow.state == "new" or self._is_half_open:
                return timeouts.connect_s
            return timeouts.tcp_half_closed_s if "F" in flow.history or "f" in flow.history else timeouts.tcp_idle_s
        if flow.protocol != "udp":
            return timeouts.icmp_idle_s
        if not flow.origin_path.packets:
            return timeouts.udp_unreplied_s
        return timeouts.dns_idle_s if flow.destination_port == DNS else timeouts.udp_idle_s

    def _track(self, last: bytes, flags: int, payload: int, is_outward: bool) -> None:
        """Record the beginning and end of a connection in Zeek's letters, upper case for the client. `last`: the
        packet's sequence and acknowledgement numbers, offset and flags."""
        flow = self.flow
        history, tracked = flow.history, flow.tracked
        assert tracked is not None
        if flags & ACK:
            (flow.client_path if is_outward else flow.origin_path).last = last
        if flags & SYN:
            direction = tracked[not is_outward]
            direction.initial, direction.first_options = _number(last)[0], (last[8] >> 4) * 4 - tcp.MIN_HEADER
            if is_outward and "S" not in history:
                flow.add_history("S")
            return
        if is_outward:
            if "A" not in history and "h" in history:
                self._handshake_completed()
        elif payload and flow.ttfb_ms is None and not self.is_carried:
            self._first_byte_arrived()
        if flags & (FIN | RST):
            self._fin_or_rst(last, flags, payload, is_outward)

    def _fin_or_rst(self, last: bytes, flags: int, payload: int, is_outward: bool) -> None:
        """Handle a FIN or RST."""
        flow = self.flow
        history, tracked = flow.history, flow.tracked
        assert tracked is not None
        direction, other = tracked if is_outward else tracked[::-1]
        if flags & RST and flow.state == "new" and not self._is_rst_for_syn(last, flags, is_outward):
            return  # of an earlier connection between the same ports
        if self.is_carried and not is_outward and "h" in history and "A" not in history:
            self._handshake_completed()  # a host ends only what it has accepted; its ACK bypassed us
            history = flow.history
        if flags & RST:
            letter = "R" if is_outward else "r"
            if flags & ACK and other.final is None and other.initial is not None:
                (other.final,) = _number(last, 4)
        else:
            letter = "F" if is_outward else "f"
        if letter not in history:
            flow.add_history(letter)
        if direction.final is None and (flags & FIN or direction.initial is not None):
            direction.final = (_number(last)[0] + payload) & 0xFFFF_FFFF
        if flags & RST:
            refused = not is_outward and flow.state == "new"
            self.end("origin_refused" if refused else "client_reset" if is_outward else "origin_reset")
        elif ("f" if is_outward else "F") in history:  # the other side sent its FIN first
            self.end("origin_closed" if is_outward else "client_closed")
        elif letter not in history:
            self._watch_idle()

    def _is_rst_for_syn(self, last: bytes, flags: int, is_outward: bool) -> bool:
        """Whether an RST can belong to a connection of which there is nothing but its SYN (RFC 9293 3.10.7.3)."""
        assert self.flow.tracked is not None
        initial = self.flow.tracked[0].initial
        if initial is None or not (is_outward or flags & ACK):
            return initial is None
        (number,) = _number(last, 0 if is_outward else 4)
        return bool(number - initial & 0xFFFF_FFFF <= MAX_SYN_BYTES)

    def _handshake_completed(self) -> None:
        """Record the end of the handshake: the client has acknowledged the origin's SYN."""
        flow = self.flow
        flow.add_history("A")
        if flow.connected_at is not None and not self.is_carried:
            flow.client_tcp_ms = (time.monotonic() - flow.connected_at) * 1000

    def _first_byte_arrived(self) -> None:
        """Record the time of the origin's first byte."""
        flow = self.flow
        if flow.connected_at is not None:
            flow.ttfb_ms = (time.monotonic() - flow.connected_at) * 1000

    @property
    def _number(self) -> int:
        """A hash, the same for all of the flow's packets, that selects one of a site's sockets. Others have only
        one."""
        flow = self.flow
        if flow.carrier.site is None and (flow.egress is None or flow.egress.site is None):
            return 0
        return flow_hash(PROTOCOL_NUMBERS[flow.protocol], flow.key)

    def _complete_handshake(self, data: memoryview) -> int:
        """Send the client's first packet after its SYN to the kernel. The following ones are not examined."""
        flow = self.flow
        if "A" not in flow.history:
            self._handshake_completed()
        assert flow.egress is not None
        assert flow.egress.exit is not None
        flow.client_path.exit = flow.egress.exit
        return flow.egress.exit(data)

    def _client_fin_or_rst(self, data: memoryview, l4: int, last: bytes) -> None:
        """Handle a FIN or RST of the client when both directions are memoised."""
        flow = self.flow
        assert flow.egress is not None
        flow.client_path.packets += 1
        flow.client_path.octets += len(data) - flow.carrier.header_bytes
        flow.egress.send(data)
        if not flow.is_ended:
            self._track(last, data[l4 + 13], len(data) - l4 - (data[l4 + 12] >> 4) * 4, True)

    def _origin_fin_or_rst(self, data: memoryview, l4: int, last: bytes) -> None:
        """Handle a FIN or RST of the origin when both directions are memoised."""
        flow = self.flow
        flow.origin_path.packets += 1
        flow.origin_path.octets += len(data) - flow.carrier.header_bytes
        flow.carrier.sender(self._number)(data)
        if not flow.is_ended:
            self._track(last, data[l4 + 13], len(data) - l4 - (data[l4 + 12] >> 4) * 4, False)

    def _await_first_byte(self, data: memoryview) -> None:
        """Forward a packet of the origin to the client, and note the first one with payload."""
        flow = self.flow
        v = flow.carrier.header_bytes
        l4 = v + (20 if len(flow.source) == 4 else 40)
        if len(data) > l4 + (data[l4 + 12] >> 4) * 4:
            self._first_byte_arrived()
            flow.origin_path.send = flow.carrier.sender(self._number)
        flow.carrier.send(data)

"""A flow that awaits its verdict: its packets are held. If it is denied, the client gets the verdict's refusal."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.handler import FlowHandler
from proxy.flow.record import CloseReason
from proxy.flow.tenant import Carrier
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.plane import UNREACHABLE
from proxy.packet.routes import Hop
from proxy.stream.admission import end_failed
from proxy.stream.held_packets import HeldPackets
from proxy.stream.held_syn import HeldSyn
from proxy.stream.lifecycle import Lifecycle
from proxy.stream.rerouting import LIFTABLE, hop_for, move, redirection
from proxy.verdict import ALLOW, Verdict
from proxy.wire import icmp, tcp
from proxy.wire.ip import IPPacket

Enter = Callable[[Flow, bool, bytearray, IPPacket], DropReason | None]

REFUSED_RETENTION_S = 2.0  # for which retransmitted SYNs get the same answer


class HeldFlow(FlowHandler):
    """The flow's handler until it is opened or refused."""

    __slots__ = ("_enter", "_errors", "_first", "_held_packets", "_is_lifted", "_is_refused", "_lifecycle", "flow")

    def __init__(
        self, lifecycle: Lifecycle, errors: IcmpErrors, enter: Enter, flow: Flow, is_lifted: bool,
        buffer: bytearray, packet: IPPacket,
    ) -> None:  # fmt: skip
        """`packet`, in `buffer`, is the first of the flow. `is_lifted`: whether the proxy reads the flow unless a
        verdict overrides that. `enter` opens the flow once it is allowed."""
        self._lifecycle, self._errors, self._enter, self.flow = lifecycle, errors, enter, flow
        self._first = HeldSyn(flow.carrier, errors, buffer, packet)
        self._is_lifted = is_lifted
        self._is_refused = False
        self._held_packets = HeldPackets(flow.tenant)

    def start(self, verdict: Verdict) -> None:
        """Carry out the policy's verdict, then ask the application."""
        if not self._apply("network", verdict):
            return
        admission = self._lifecycle.admission
        if not admission.stages:
            self._open()
            return
        admission.hooks.spawn(self._ask(), failed=partial(end_failed, self.flow))

    async def _ask(self) -> None:
        admission, flow = self._lifecycle.admission, self.flow
        for stage in admission.stages:
            if stage == "level" and flow.protocol not in LIFTABLE:
                continue
            verdict = await admission.ask_hook(flow, stage)
            if flow.is_ended or not self._apply(stage, verdict):
                return
        self._open()

    @property
    def _has_choice(self) -> bool:
        """Whether the flow may be either forwarded or read."""
        return self.flow.protocol in LIFTABLE and self.flow.egress is not None and self.flow.redirect is None

    def _apply(self, stage: str, verdict: Verdict) -> bool:
        """Carry out the verdict. Returns whether the flow proceeds."""
        if verdict is ALLOW:
            return True
        if verdict.is_denial:
            self._refuse(verdict)
            return False
        problem = self._reroute(verdict)
        if isinstance(problem, DropReason):
            self._drop(problem)
            return False
        if problem is not None:
            failed = self._lifecycle.admission.record_failure(self.flow, stage, problem)
            if failed.is_denial:
                self._refuse(failed)
            return not failed.is_denial
        if verdict.level is not None:
            self.flow.wanted_level = verdict.level
            if self._has_choice:
                self._is_lifted = verdict.level != "packet"
        if verdict.paces and self._has_choice:
            self._is_lifted = True  # only streams can be paced
        return True

    def _reroute(self, verdict: Verdict) -> DropReason | str | None:
        """Route the flow as the verdict requires. Returns a reason to drop, what is wrong with the verdict, or None."""
        if verdict.origin is None and verdict.offramp is None:
            return None
        flow, target = self.flow, self.flow.redirect
        if verdict.origin is not None:
            found = redirection(flow, verdict.origin)
            if isinstance(found, str):  # a message about the invalid verdict
                return found
            target = found
        hop = hop_for(flow, verdict, target)
        if not isinstance(hop, Hop):
            return hop
        if reason := move(self._lifecycle, flow, hop, target):
            return reason
        self._is_lifted = hop.is_stream
        if target is not None:
            flow.verdict = "redirected"
        return None

    def _open(self) -> None:
        flow, first = self.flow, self._first
        held_packets = self._held_packets.take()
        reason = self._enter(flow, self._is_lifted, bytearray(first.data), first.packet)
        if reason is not None:
            flow.tenant.drops[reason] += 1
            self.end("unknown" if reason is DropReason.NOT_SYN else "proxy_error")
            return
        for data, packet in held_packets:
            if flow.handler is None:
                return
            if dropped := flow.handler.packet(flow.carrier, bytearray(data), packet):
                flow.tenant.drops[dropped] += 1

    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Hold a later packet. With TCP, only the latest SYN is kept, others are dropped; a reset ends the flow."""
        flow = self.flow
        if flow.protocol != "tcp":
            return DropReason.STRAY if flow.is_ended else self._held_packets.add(buffer, packet)
        flags = tcp.flags(buffer, packet)
        if flow.is_ended:
            if self._is_refused and flags & tcp.SYN:
                self._first.refuse_again()
                return DropReason.HELD
            return DropReason.STRAY
        if flags & tcp.RST and self._first.is_reset_by(buffer, packet):
            flow.history += "R"
            self.end("client_reset")
            return None
        if flags & (tcp.SYN | tcp.ACK | tcp.RST | tcp.FIN) == tcp.SYN:
            self._first.hold(buffer, packet)
        return DropReason.HELD

    def is_retransmission(self, buffer: bytearray, packet: IPPacket) -> bool:
        """Whether this SYN is a retransmission of the refused one."""
        return self._is_refused and self._first.is_same(buffer, packet)

    def expired(self, now: float) -> None:
        """Remove the flow: the client no longer retransmits its SYN."""
        self._lifecycle.removed(self.flow)

    def end(self, reason: CloseReason) -> None:
        """End the flow. A refused TCP flow is kept for retransmissions of its SYN."""
        flow, lifecycle = self.flow, self._lifecycle
        if not flow.close(reason, time.time_ns()):
            return
        self._held_packets.drop_all()
        lifecycle.ended(flow)
        if self._is_refused and flow.protocol == "tcp":
            lifecycle.wheel.arm(flow, time.monotonic() + REFUSED_RETENTION_S)
        else:
            lifecycle.removed(flow)

    def _refuse(self, verdict: Verdict) -> None:
        """Send the client the refusal, unless the verdict is to drop, and end the flow."""
        self._is_refused = True
        if verdict.refusal != "drop":
            kind: icmp.ErrorKind | None = icmp.PROHIBITED
            if verdict.refusal == "reset":
                kind = icmp.PORT_UNREACHABLE if self.flow.protocol == "udp" else icmp.PROHIBITED
                kind = None if self.flow.protocol == "tcp" else kind
            self._answer(kind)
        self.end(verdict.ending)

    def _drop(self, reason: DropReason) -> None:
        """Refuse the flow and count `reason`: the off-ramp of its verdict cannot take it."""
        self._is_refused = True
        self.flow.tenant.drops[reason] += 1
        self._answer(UNREACHABLE.get(reason, icmp.HOST_UNREACHABLE))
        self.end("origin_unreachable" if reason in UNREACHABLE else "proxy_error")

    def _answer(self, kind: icmp.ErrorKind | None) -> None:
        """Send the client an ICMP error, or with `kind` None an RST (TCP only)."""
        first = self._first
        if self.flow.protocol == "tcp":
            first.refuse(kind)
        elif kind is not None:
            self._errors.answer(self.flow.carrier, kind, first.data, first.packet, time.monotonic())

"""A new flow, from its first packet to its path: judged, routed, lifted if needed, and opened at its off-ramp.

A flow that neither policy nor hooks decide about is opened at once; otherwise a HeldFlow keeps its packets meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Protocol

from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.observed import SentSYN
from proxy.packet.plane import Inject, Opener
from proxy.packet.routes import Hop
from proxy.stream.held_flow import HeldFlow
from proxy.stream.inspected_origins import INSPECTED_LEVELS
from proxy.stream.lifecycle import Lifecycle
from proxy.stream.rerouting import LIFTABLE
from proxy.verdict import ALLOW, Verdict
from proxy.wire import tcp
from proxy.wire.ip import IPPacket

QUIC_PORT = 443


class Forwarder(Opener, Protocol):
    """Opens flows that leave as packets."""

    def open_inbound(self, flow: Flow, inject: Inject) -> None: ...

    def resume(self, flow: Flow) -> None: ...

    def open_sent(self, flow: Flow, syn: SentSYN) -> None: ...


class FlowSetup:
    """Opens every flow that a client begins, whatever its protocol and off-ramp."""

    def __init__(
        self, lifecycle: Lifecycle, errors: IcmpErrors, openers: Mapping[str, Opener], forwarder: Forwarder | None
    ) -> None:
        """`openers`, by protocol, open flows that end in the proxy; `forwarder` opens those that stay packets."""
        self.lifecycle, self._errors = lifecycle, errors
        self._openers, self._forwarder = openers, forwarder
        self.is_tcp_inspected: Callable[[Flow], bool] = lambda flow: False  # whether TCP to its destination is

    def open(self, flow: Flow, hop: Hop, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Open the flow whose first packet is in `buffer`, by `hop` unless a verdict overrides it."""
        if hop.route is not None and hop.route.level is not None:
            flow.wanted_level = hop.route.level
        admission = self.lifecycle.admission
        verdict = admission.ask_policy(flow)
        if flow.destination_port == QUIC_PORT and flow.protocol == "udp" and not verdict.is_denial:
            verdict = self._quic(flow, verdict)
        if verdict is ALLOW and not admission.stages:
            return self.enter(flow, hop.is_stream, buffer, packet)
        held = HeldFlow(self.lifecycle, self._errors, self.enter, flow, hop.is_stream, buffer, packet)
        self.lifecycle.begin(flow, held, partial(held.start, verdict))
        return None

    def _quic(self, flow: Flow, verdict: Verdict) -> Verdict:
        """Refuse QUIC where TCP is inspected, as QUIC cannot be. Browsers fall back to TLS (RFC 9308 2)."""
        tenant = flow.tenant.settings
        level = verdict.level or flow.wanted_level or tenant.level
        if tenant.inspection.quic == "pass" or not (level in INSPECTED_LEVELS or self.is_tcp_inspected(flow)):
            return verdict
        return self.lifecycle.admission.refuse(flow, "quic", "QUIC cannot be inspected, TLS over TCP can")

    def open_inbound(self, flow: Flow, inject: Inject) -> None:
        """Open a flow whose first packet comes from the origin; `inject` forwards it."""
        assert self._forwarder is not None
        self._forwarder.open_inbound(flow, inject)

    def resume(self, flow: Flow) -> None:
        """Resume a flow that the kernel forwarded while no proxy was running."""
        assert self._forwarder is not None
        self._forwarder.resume(flow)

    def open_sent(self, flow: Flow, syn: SentSYN) -> None:
        """Open a flow whose first packet has already been forwarded: see `asks`."""
        assert self._forwarder is not None
        self.lifecycle.admission.ask_policy(flow)
        self._forwarder.open_sent(flow, syn)

    def asks(self) -> bool:
        """Whether policy or a hook decides about new flows."""
        admission = self.lifecycle.admission
        return admission.judge is not None or bool(admission.stages)

    def enter(self, flow: Flow, is_lifted: bool, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Open an allowed flow at its off-ramp."""
        egress = flow.egress
        if egress is not None and not (is_lifted and flow.protocol in LIFTABLE):
            assert self._forwarder is not None
            return self._forwarder.open(flow, buffer, packet)
        if flow.seq and not may_begin(flow, buffer, packet):
            flow.carrier.deliver(tcp.reset_for(buffer, packet))
            return DropReason.NOT_SYN
        opener = self._openers.get(flow.protocol)
        if opener is None:
            return DropReason.PROTOCOL_UNSUPPORTED
        if egress is not None and egress.exit is not None:  # a flow read by the proxy leaves by a socket of the proxy's
            if flow.seq:
                self.lifecycle.move(flow, None, flow.redirect)
            flow.egress = None
        flow.use_full_paths()
        return opener.open(flow, buffer, packet)


def may_begin(flow: Flow, buffer: bytes | bytearray, packet: IPPacket) -> bool:
    """Whether a flow terminated in the proxy may begin with this packet: for TCP, only a SYN."""
    return flow.protocol != "tcp" or tcp.flags(buffer, packet) & (tcp.SYN | tcp.ACK) == tcp.SYN

"""Flows that leave as packets, by a tunnel or by the kernel: opened, and rerouted when routes change."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from proxy.errors import DropReason
from proxy.flow.flow import PROTOCOL_NUMBERS, Flow
from proxy.flow.tenant import Carrier, Network
from proxy.offramps.forwarded import ForwardedFlow
from proxy.offramps.packet_flows import PacketFlows
from proxy.packet.observed import SentSYN
from proxy.packet.plane import Inject
from proxy.packet.routes import Hop, choose, flow_hash, resolve_exit
from proxy.wire.ip import IPPacket


class TunnelOffRamp(PacketFlows):
    """Opens flows that leave as packets."""

    __slots__ = ()

    def open(self, flow: Flow, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Open a flow, and send its first packet."""
        handler = ForwardedFlow(self, flow)
        self.lifecycle.begin(flow, handler, partial(handler.start, bytes(buffer[: packet.end]), packet))
        return None

    def resume(self, flow: Flow) -> None:
        """Resume a flow that passed while no proxy was running."""
        handler = ForwardedFlow(self, flow)
        handler.resume()
        self.lifecycle.resume(flow, handler)

    def open_sent(self, flow: Flow, syn: SentSYN) -> None:
        """Enter a flow whose first packet has been sent."""
        handler = ForwardedFlow(self, flow)
        self.lifecycle.begin(flow, handler, partial(handler.start_sent, syn))

    def open_inbound(self, flow: Flow, inject: Inject) -> None:
        """Ask whether to allow a flow that begins with a reply, which `inject` sends on."""
        handler = ForwardedFlow(self, flow)
        then = partial(handler.start_inbound, inject)
        self.lifecycle.begin(flow, handler, partial(self.lifecycle.admission.ask, flow, then))


def carrier_changed(carrier: Carrier) -> None:
    """Reroute the flows that leave by this tunnel, and no others, as its health has changed."""
    _invalidate_routes(flow for table in carrier.flows.values() for flow in table.values() if flow.egress is carrier)


def mtu_changed(carrier: Carrier) -> None:
    """Examine the next packets of each flow of this tunnel again, as they may be too big now."""
    for table in carrier.flows.values():
        for flow in table.values():
            if isinstance(flow.handler, ForwardedFlow):
                flow.handler.forget()


def routes_changed(network: Network) -> None:
    """Reroute the flows whose next hop has changed with the routes."""
    _invalidate_routes(flow for flow in network.tenant.live() if flow.carrier.network is network and _has_moved(flow))


def _has_moved(flow: Flow) -> bool:
    hop = choose(flow.carrier.network, flow.destination, flow_hash(PROTOCOL_NUMBERS[flow.protocol], flow.key))
    if isinstance(hop, Hop):
        hop = resolve_exit(hop, flow.carrier, flow.destination)
    return isinstance(hop, DropReason) or hop.carrier is not flow.egress or str(hop) != (flow.route or "")


def _invalidate_routes(flows: Iterable[Flow]) -> None:
    for flow in flows:
        if isinstance(flow.handler, ForwardedFlow):
            flow.handler.invalidate_route()

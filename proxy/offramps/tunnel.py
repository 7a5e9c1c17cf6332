"""Flows that leave as packets, by a tunnel or by the kernel: opened or lifted, and told that the way has changed."""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from proxy.errors import DropReason
from proxy.flow.flow import PROTOCOL_NUMBERS, Flow
from proxy.flow.tenant import Carrier, Network
from proxy.offramps.forwarded import ForwardedFlow
from proxy.offramps.packet_flows import PacketFlows
from proxy.packet.plane import Inject
from proxy.packet.routes import Hop, choose, flow_hash, leave
from proxy.wire.ip import IPPacket


class TunnelOffRamp(PacketFlows):
    """Opens flows that leave as packets, or has them lifted to streams."""

    __slots__ = ()

    def open(self, flow: Flow, hop: Hop, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Ask whether the flow may be, and how high it is lifted; send its first packet on."""
        may_lift = flow.protocol in self.streams
        if may_lift and hop.is_stream and not self.hooks.has("level"):
            if hop.carrier is not None and hop.carrier.exit is not None:  # read by us, it leaves by a socket of ours
                flow.egress = None
                flow.widen()
            return self.streams[flow.protocol].open(flow, buffer, packet)
        handler = ForwardedFlow(self, flow, is_lifted=may_lift and hop.is_stream)
        held = bytes(buffer[: packet.end])
        self.lifecycle.begin(flow, handler, partial(handler.decided, held, packet))
        return None

    def take_back(self, flow: Flow) -> None:
        """The flow has passed without us: go on with it."""
        handler = ForwardedFlow(self, flow, is_lifted=False)
        handler.resume()
        self.lifecycle.resume(flow, handler)

    def open_answer(self, flow: Flow, inject: Inject) -> None:
        """Ask whether a flow may be that begins with an answer, which `inject` sends on."""
        handler = ForwardedFlow(self, flow, is_lifted=False)
        self.lifecycle.begin(flow, handler, partial(handler.let_in, inject))


def carrier_changed(carrier: Carrier) -> None:
    """Its health has: the flows that leave by it look for the best way again, and no others."""
    _unroute(flow for table in carrier.flows.values() for flow in table.values() if flow.egress is carrier)


def mtu_changed(carrier: Carrier) -> None:
    """Packets into it may be too big now: each is looked at again."""
    for table in carrier.flows.values():
        for flow in table.values():
            if isinstance(flow.handler, ForwardedFlow):
                flow.handler.forget()


def routes_changed(network: Network) -> None:
    """Flows that would now go another way look for it."""
    _unroute(flow for flow in network.tenant.live() if flow.carrier.network is network and _has_moved(flow))


def _has_moved(flow: Flow) -> bool:
    hop = choose(flow.carrier.network, flow.destination, flow_hash(PROTOCOL_NUMBERS[flow.protocol], flow.key))
    if isinstance(hop, Hop):
        hop = leave(hop, flow.carrier, flow.destination)
    return isinstance(hop, DropReason) or hop.carrier is not flow.egress or str(hop) != (flow.route or "")


def _unroute(flows: Iterable[Flow]) -> None:
    for flow in flows:
        if isinstance(flow.handler, ForwardedFlow):
            flow.handler.unroute()

"""Where a verdict sends a flow: through a named off-ramp, or to another origin."""

from __future__ import annotations

from ipaddress import ip_address

from proxy.errors import DropReason
from proxy.flow.flow import PROTOCOL_NUMBERS, Flow
from proxy.flow.tenant import Endpoint, is_kernel_forwarded
from proxy.packet.routes import Hop, choose, flow_hash, named, resolve_exit
from proxy.stream.lifecycle import Lifecycle
from proxy.verdict import Verdict

LIFTABLE = ("tcp", "udp")  # protocols that can be read
ECHO_PROTOCOLS = ("icmp", "icmpv6")


def hop_for(flow: Flow, verdict: Verdict, redirect: Endpoint | None) -> Hop | DropReason | str:
    """The next hop for a verdict with an off-ramp or another origin. Otherwise the reason to drop, or a message that
    says what is wrong with the verdict."""
    network, target = flow.carrier.network, flow.destination if redirect is None else redirect[0]
    number = flow_hash(PROTOCOL_NUMBERS[flow.protocol], flow.key)
    hop: Hop | DropReason | str
    if verdict.offramp is None:
        hop = choose(network, target, number)
    else:
        hop = named(network, verdict.offramp, target, number)
    if isinstance(hop, Hop):
        hop = resolve_exit(hop, flow.carrier, target)
        if verdict.offramp == "kernel" and hop.carrier is None:
            return "there is no kernel off-ramp for this flow"
        if redirect is not None:
            return _redirected_hop(flow, hop)
    return hop


def move(lifecycle: Lifecycle, flow: Flow, hop: Hop, redirect: Endpoint | None) -> DropReason | None:
    """Make a held flow leave by `hop`, to `redirect` if given. Returns the reason if that is impossible, else None."""
    carrier, number = hop.carrier, PROTOCOL_NUMBERS[flow.protocol]
    if carrier is not None and flow.tenant.collides(number, flow, carrier, redirect):
        return DropReason.FLOW_COLLISION
    lifecycle.move(flow, carrier, redirect)
    is_kernels = is_kernel_forwarded(flow.carrier, carrier)
    if not is_kernels:
        flow.use_full_paths()
    flow.offramp = None if carrier is None else "kernel" if is_kernels else "tunnel"
    if hop.route is not None:
        flow.route = str(hop)
    return None


def redirection(flow: Flow, origin: tuple[str, int]) -> Endpoint | str:
    """The address and port that the flow is redirected to, or a message that says why that is impossible."""
    address = ip_address(origin[0]).packed
    if len(address) != len(flow.destination):
        return f"{origin[0]} is of the other address family"
    if flow.protocol not in (*LIFTABLE, *ECHO_PROTOCOLS):
        return f"{flow.protocol} cannot be redirected"
    return address, origin[1] if flow.protocol in LIFTABLE else flow.destination_port


def _redirected_hop(flow: Flow, hop: Hop) -> Hop | str:
    """The hop of a redirected flow: sockets, or a stream into a tunnel, since packets would have to be rewritten."""
    if hop.carrier is None:
        return hop
    if hop.carrier.exit is not None:
        return Hop(hop.route, None)
    if flow.protocol in ECHO_PROTOCOLS:
        return "an echo request into a tunnel cannot be redirected"
    return Hop(hop.route, hop.carrier, is_lifted=True)

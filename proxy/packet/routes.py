"""Chooses a flow's route: longest prefix, lowest priority with health penalties, then by weight."""

from __future__ import annotations

from dataclasses import dataclass
from zlib import crc32

from proxy.errors import DropReason
from proxy.flow.keys import ADDRESS_BYTES
from proxy.flow.tenant import Carrier, Network
from proxy.settings.sites import SITE, Route


@dataclass(frozen=True, slots=True)
class Hop:
    """A next hop. No `carrier`: a socket of the host. No `route`: the network has none."""

    route: Route | None
    carrier: Carrier | None
    is_lifted: bool = False  # whether the tenant wants its flows read

    @property
    def is_stream(self) -> bool:
        """Whether flows by this hop are lifted to streams, unless a verdict overrides it."""
        return self.carrier is None or self.is_lifted or (self.route is not None and self.route.level is not None)

    def __str__(self) -> str:
        return "" if self.route is None else f"{self.route.prefix} via {self.route.via}"


SOCKETS = Hop(None, None)
OFFRAMPS = {"sockets": "stream", "kernel": "kernel", "clients": "clients"}  # names in verdicts, and the same in routes


def choose(network: Network, destination: bytes, number: int) -> Hop | DropReason:
    """The next hop of a flow to `destination` with hash `number`, or why there is none. See also `resolve_exit`."""
    if network.routes is None:
        return SOCKETS
    routes = network.routes.match(destination)
    if not routes:
        return DropReason.NO_ROUTE
    open_hops = [(route, hops) for route in routes if (hops := _hops(network, route, destination))]
    if not open_hops:
        return DropReason.NO_NEXT_HOP
    best = min(_cost(hop) for _, hops in open_hops for hop in hops)
    equal = [(route, [hop for hop in hops if _cost(hop) == best]) for route, hops in open_hops]
    return _share([(route.weight, hops) for route, hops in equal if hops], number)


def named(network: Network, offramp: str, destination: bytes, number: int) -> Hop | DropReason | str:
    """The next hop by an off-ramp that a verdict names, or the reason if there is none; a message if unknown."""
    if offramp.startswith(SITE):
        if offramp.removeprefix(SITE) not in network.sites:
            return f"no site '{offramp.removeprefix(SITE)}' has an open tunnel{_others(network)}"
    elif offramp not in OFFRAMPS:
        return f"no off-ramp '{offramp}'; expected one of: {', '.join(OFFRAMPS)}, site:NAME"
    route = Route(prefix="verdict", via=OFFRAMPS.get(offramp, offramp))
    hops = _hops(network, route, destination)
    if not hops:
        return DropReason.NO_NEXT_HOP
    best = min(map(_cost, hops))
    return _share([(1, [hop for hop in hops if _cost(hop) == best])], number)


def _others(network: Network) -> str:
    return f"; those that have: {', '.join(sorted(network.sites))}" if network.sites else ""


def resolve_exit(hop: Hop, arrival: Carrier, destination: bytes) -> Hop:
    """The same hop, but with packets in place of a socket, if the flow leaves the proxy unread: to the on-ramp behind
    which the destination is, for a flow of a tunnel, or else to the kernel's forwarding.

    This host's own addresses are reached by sockets only.
    """
    if hop.carrier is not None or (hop.route is not None and hop.route.via == "stream"):
        return hop
    network = arrival.network
    egress = arrival if arrival.exit is not None else network.exits.get(arrival.header_bytes)
    if egress is None or network.is_host_address(destination):
        return hop
    if arrival.exit is None:
        egress = next((ramp for ramp in network.ramps if network.can_reach(ramp, destination)), egress)
    return Hop(hop.route, egress, network.tenant.settings.level != "packet")


def _hops(network: Network, route: Route, destination: bytes) -> list[Hop]:
    """The next hops of a route for this destination: open tunnels."""
    if route.via in ("stream", "kernel"):
        return [Hop(route, None)]
    if route.via == "clients":
        client = network.clients.get(destination)
        return [] if client is None else [Hop(route, client)]
    return [Hop(route, peer) for peer in network.sites.get(route.via.removeprefix(SITE), [])]


def _cost(hop: Hop) -> int:
    assert hop.route is not None
    return hop.route.priority + (0 if hop.carrier is None else hop.carrier.penalty)


def _share(choices: list[tuple[int, list[Hop]]], number: int) -> Hop:
    """One of the routes by weight, then one of its tunnels by the quotient, which is as well distributed."""
    total = sum(weight for weight, _ in choices)
    rest, point = divmod(number, total)
    for weight, hops in choices:
        if point < weight:
            return hops[rest % len(hops)]
        point -= weight
    raise AssertionError("a remainder is less than its divisor")


def flow_hash(protocol: int, key: bytes) -> int:
    """A hash of the flow, the same for both directions, 0 to 2**32 - 1."""
    half = ADDRESS_BYTES[len(key)]
    tail = key[2 * half :]
    ports = (tail[:2], tail[2:]) if len(tail) == 4 else (tail, tail)
    low, high = sorted((key[:half] + ports[0], key[half : 2 * half] + ports[1]))
    return crc32(low + high, protocol)

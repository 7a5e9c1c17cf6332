"""One tenant: its tunnels, networks, flows, limits and counters. No table ever holds data of two tenants."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address
from typing import Any, Protocol, TypeVar

from proxy.errors import DropReason
from proxy.flow.chunks import ChunkedSet
from proxy.flow.fragments import Fragments
from proxy.flow.keys import reverse_key
from proxy.flow.path import Path
from proxy.flow.route_table import RouteTable
from proxy.settings.model import TenantSettings
from proxy.settings.parts import DEFAULT_NETWORK

ECN = 3

Endpoint = tuple[bytes, int]  # an address and a port
FastPath = Callable[["Carrier", bytearray, int], bool]  # handles a packet, if it can


class PeerSocket(Protocol):
    """A socket of a tunnel that a hot loop may use directly."""

    headers: dict[int, bytes]  # before packets of IP version 4 and 6
    packets: int
    octets: int
    raw: Callable[[bytes], int]  # may raise OSError, which the caller passes to `failed`

    def send(self, packet: bytes | memoryview) -> None: ...

    def failed(self, error: OSError, packet: bytes | memoryview) -> None: ...


class Carrier(Protocol):
    """A tunnel as seen by flows and the packet plane."""

    id: str
    kind: str
    tenant: Tenant
    network: Network
    site: str | None  # the site's name; None: a client's tunnel
    owned: frozenset[bytes]  # addresses that belong to this tunnel only
    gateways: Mapping[int, bytes]  # the proxy's own addresses here, by IP version, as far as it has any
    user: str | None
    device: str | None
    extension: Any  # the application's data about this tunnel
    mtu: int
    penalty: int  # added to routes that lead here, by its health
    header_bytes: int  # of virtio-net, before each packet: 10 with offload, else 0
    kernel_hops: int  # decrements of the TTL by the kernel between the wire and us: 0 for a tunnel that we read
    exit: Callable[[bytes | memoryview], int] | None  # writes to the kernel's forwarding; None: a tunnel
    flows: dict[int, dict[bytes, Any]]  # by protocol and key: flows that arrive here, and flows that leave here
    paths: dict[bytes, Path]  # TCP, memoised for packets that arrive here
    sessions: dict[bytes, Any]  # UDP, the same, if not forwarded
    forwards: dict[bytes, Path]  # UDP, if forwarded
    is_closed: bool
    can_open_flows: bool  # whether packets that arrive here may open flows

    def owns(self, address: bytes) -> bool: ...

    def send(self, packet: bytes | memoryview) -> None: ...

    def sender(self, number: int) -> Callable[[bytes | memoryview], None]:
        """The function that sends packets of the flow with this hash; always the same for one flow."""
        ...

    def peer_socket(self, number: int) -> PeerSocket | None:
        """The socket behind that sender, if each packet is one datagram with a constant header."""
        ...

    def deliver(self, packet: bytes) -> None: ...

    def close(self) -> None: ...


class Entry(Protocol):
    """A flow as seen by its tenant's tables: `proxy.flow.flow.Flow`."""

    carrier: Carrier
    egress: Carrier | None
    key: bytes
    redirect: Endpoint | None
    chunk: list[Any] | None
    chunk_index: int

    @property
    def reply_key(self) -> bytes: ...

    def key_towards(self, redirect: Endpoint | None) -> bytes: ...

    @property
    def protocol(self) -> str: ...

    @property
    def is_ended(self) -> bool: ...


EntryT = TypeVar("EntryT", bound=Entry)


class Network:
    """One virtual network of a tenant. The same prefix may exist in several, which share no table."""

    def __init__(self, name: str, tenant: Tenant) -> None:
        self.name, self.tenant = name, tenant
        self.routes: RouteTable | None = None  # None: everything leaves the proxy
        self.exits: dict[int, Carrier] = {}  # into the kernel's forwarding, by size of the virtio-net header
        self.fast_paths: dict[int, FastPath] = {}  # likewise: handlers of SYNs whose decision is cached
        self.ramps: list[Carrier] = []  # on-ramps whose clients the kernel sees, and which reach one another
        self.is_host_address: Callable[[bytes], bool] = lambda address: False  # whether the host has this address
        # whether an address is behind one of the on-ramps
        self.can_reach: Callable[[Carrier, bytes], bool] = lambda ramp, address: False
        self.clients: dict[bytes, Carrier] = {}  # connected tunnels, by each address that only they have
        self.sites: dict[str, list[Carrier]] = {}  # the tunnels to a site's peers, by the site's name
        settings = tenant.settings.networks.get(name)
        gateway = [ip_address(text) for text in (settings and settings.gateway) or tenant.settings.gateway]
        self.gateways: Mapping[int, bytes] = {address.version: address.packed for address in gateway}

    def __repr__(self) -> str:
        return f"<network {self.name} of {self.tenant.name}>"

    def find_by_reply(self, protocol: int, key: bytes, arrival: Carrier | None = None) -> Any:
        """The flow from one of `ramps` whose replies have this key, or None.

        `arrival`: the on-ramp of the reply, which must lead to the flow's destination. None: the kernel has checked
        that.
        """
        reversed_ = reverse_key(key)
        for ramp in self.ramps:
            flow = ramp.flows.get(protocol, {}).get(reversed_)
            if flow is not None and flow.egress is flow.carrier:
                return flow if arrival is None or self.can_reach(arrival, flow.destination) else None
        return None

    def attach(self, carrier: Carrier) -> None:
        """Let routes lead to a tunnel that has opened."""
        for address in carrier.owned:
            self.clients[address] = carrier
        if carrier.site is not None:
            self.sites.setdefault(carrier.site, []).append(carrier)

    def detach(self, carrier: Carrier) -> None:
        """Let no routes lead to the tunnel any more."""
        for address in carrier.owned:
            if self.clients.get(address) is carrier:
                del self.clients[address]
        if carrier in (peers := self.sites.get(carrier.site or "", [])):
            peers.remove(carrier)


class Tenant:
    """The tunnels and virtual networks of one tenant, and limits on its flows.

    A flow is in the table of the tunnel from which it arrives, under its key. If it leaves by a tunnel, it is also in
    that tunnel's table, under the key of its replies.
    """

    def __init__(self, name: str, settings: TenantSettings, *, fragments_s: float = 15) -> None:
        self.name = name
        self.settings = settings
        self.networks = {each: Network(each, self) for each in (DEFAULT_NETWORK, *settings.networks)}
        self.carriers: dict[str, Carrier] = {}  # open tunnels
        self._carriers_with_flows: dict[Carrier, None] = {}  # tunnels with flows in their tables, also closed ones
        self.count = 0  # flows in the tables
        self.lingering = 0  # those of them that have ended, and are kept for their last packets
        self.opened: Counter[str] = Counter()  # flows since the start, by protocol
        self.live_by_protocol: Counter[str] = Counter()  # flows in the tables that have not ended, by protocol
        self.live_by_carrier: Counter[Carrier] = Counter()  # likewise, by each tunnel by which they arrive or leave
        self._all_flows: ChunkedSet[Any] = ChunkedSet()  # the flows in the tables, in lists
        self.drops: Counter[DropReason] = Counter()
        self.fragments = Fragments(timeout_s=fragments_s, max_bytes=settings.limits.bytes_held)
        self.held_bytes = 0  # queued for its tunnels
        # bits kept of a TOS byte or traffic class, and bits added; the two ECN bits belong to the hosts
        self.tos_mask = 0xFF if settings.dscp == "keep" else ECN
        self.tos_bits = settings.dscp << 2 if isinstance(settings.dscp, int) else 0
        self.closed_traffic = (0, 0, 0, 0)  # of closed tunnels: packets and bytes in, packets and bytes out
        self._tokens = float(settings.limits.new_flows_per_s)
        self._filled_at = 0.0

    @property
    def dscp(self) -> int | None:
        """What all of its packets get; None: they keep theirs."""
        setting = self.settings.dscp
        return None if setting == "keep" else 0 if setting == "clear" else setting

    def attach(self, carrier: Carrier) -> None:
        """Add a tunnel that has opened."""
        self.carriers[carrier.id] = carrier
        carrier.network.attach(carrier)

    def detach(self, carrier: Carrier) -> None:
        """Remove a tunnel that has closed. Flows that used it stay in its tables until they are removed."""
        if self.carriers.get(carrier.id) is carrier:
            del self.carriers[carrier.id]
        carrier.network.detach(carrier)

    def find(self, carrier: Carrier, protocol: int, key: bytes) -> Any:
        """The `Flow` whose packets arrive at `carrier` with this key, or None."""
        table = carrier.flows.get(protocol)
        return table.get(key) if table else None

    def refusal(self, now: float) -> DropReason | None:
        """Why no further flow may start now, or None after taking a token of the new-flow rate."""
        limits = self.settings.limits
        if self.count - self.lingering >= limits.flows:
            return DropReason.LIMIT_FLOWS
        rate = limits.new_flows_per_s
        self._tokens = min(rate, self._tokens + (now - self._filled_at) * rate)
        self._filled_at = now
        if self._tokens < 1:
            return DropReason.LIMIT_RATE
        self._tokens -= 1
        return None

    def remark_tos(self, tos: int) -> int:
        """The TOS byte or traffic class with which a packet is sent on."""
        return tos & self.tos_mask | self.tos_bits

    def occupants(self, protocol: int, flow: EntryT) -> list[EntryT]:
        """The flows with the keys that `flow` is about to take."""
        if flow.egress is None or flow.egress is flow.carrier:
            other = self.find(flow.carrier, protocol, flow.key)
            return [] if other is None or other is flow else [other]
        arriving = self.find(flow.carrier, protocol, flow.key)
        leaving = self.find(flow.egress, protocol, flow.reply_key)
        others = (arriving,) if arriving is leaving else (arriving, leaving)
        return [other for other in others if other is not None and other is not flow]

    def collides(self, protocol: int, flow: Entry, egress: Carrier, redirect: Endpoint | None = None) -> bool:
        """Whether a live flow has the key that `flow` needs to leave by `egress`, to `redirect` if given."""
        if egress is flow.carrier:  # an interface on-ramp, where no replies arrive
            return False
        other = self.find(egress, protocol, reverse_key(flow.key_towards(redirect)))
        return other is not None and other is not flow and not other.is_ended

    def add(self, protocol: int, flow: Entry) -> None:
        self._insert(protocol, flow)
        self.opened[flow.protocol] += 1

    def move(self, protocol: int, flow: Entry, egress: Carrier | None, redirect: Endpoint | None = None) -> None:
        """Make a flow leave by another tunnel, or by a socket. The caller has checked `collides` for that tunnel."""
        self._remove(protocol, flow)
        flow.egress, flow.redirect = egress, redirect
        self._insert(protocol, flow)

    def remove(self, protocol: int, flow: Entry) -> None:
        """Remove the flow from the tables, unless a later flow has taken its key."""
        self._remove(protocol, flow)

    def _insert(self, protocol: int, flow: Entry) -> None:
        for carrier, key in _table_keys(flow):
            table = carrier.flows.setdefault(protocol, {})
            earlier = table.get(key)
            if earlier is not None and _is_original_key(earlier, carrier, key):
                self._discount(earlier)
            table[key] = flow
            self._carriers_with_flows[carrier] = None
        self.count += 1
        self._all_flows.add(flow)
        if not flow.is_ended:
            self._count_live(flow, 1)

    def _remove(self, protocol: int, flow: Entry) -> None:
        for carrier, key in _table_keys(flow):
            table = carrier.flows.get(protocol, {})
            if table.get(key) is not flow:
                continue
            del table[key]
            if _is_original_key(flow, carrier, key):
                self._discount(flow)
            if not table:
                del carrier.flows[protocol]
                if not carrier.flows:
                    self._carriers_with_flows.pop(carrier, None)

    def _discount(self, flow: Entry) -> None:
        self.count -= 1
        self._all_flows.remove(flow)
        if flow.is_ended:
            self.lingering -= 1
        else:
            self._count_live(flow, -1)

    def _count_live(self, flow: Entry, by: int) -> None:
        self.live_by_protocol[flow.protocol] += by
        at, carrier, egress = self.live_by_carrier, flow.carrier, flow.egress
        at[carrier] += by
        if not at[carrier]:
            del at[carrier]
        if egress is not None and egress is not carrier:
            at[egress] += by
            if not at[egress]:
                del at[egress]

    def ended(self, flow: Entry) -> None:
        """Count a flow as ended. It stays in the tables for its last packets."""
        self.lingering += 1
        if flow.chunk is not None:
            self._count_live(flow, -1)

    def expire_fragments(self, now: float) -> None:
        """Drop datagrams that were not complete in time."""
        if lost := self.fragments.expire(now):
            self.drops[DropReason.FRAGMENT_TIMEOUT] += lost

    def live(self) -> Iterator[Any]:
        """Each `Flow` once, by the tunnel from which it arrives."""
        for carrier in self._carriers_with_flows:
            for table in carrier.flows.values():
                for key, flow in table.items():
                    if _is_original_key(flow, carrier, key):
                        yield flow

    def slices(self) -> Iterator[list[Any]]:
        """The flows in no order, a few hundred at a time. Flows may begin and end between two lists."""
        return iter(self._all_flows)


def is_kernel_forwarded(arrival: Carrier, egress: Carrier | None) -> bool:
    """Whether the kernel forwards flows that leave this way: by an exit, or back by the on-ramp that they come from."""
    return egress is not None and egress.exit is not None and (egress is arrival or not egress.can_open_flows)


def _table_keys(flow: Entry) -> list[tuple[Carrier, bytes]]:
    if flow.egress is None or flow.egress is flow.carrier:
        return [(flow.carrier, flow.key)]
    return [(flow.carrier, flow.key), (flow.egress, flow.reply_key)]


def _is_original_key(flow: Entry, carrier: Carrier, key: bytes) -> bool:
    """Whether this is the key of the flow's packets, and not of its replies."""
    return flow.carrier is carrier and flow.key == key

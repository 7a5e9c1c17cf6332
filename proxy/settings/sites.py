"""Sites behind unconnected tunnels, and routes between all tunnels: their structure in `proxy.yaml`, and checks."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from ipaddress import ip_network
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proxy.context import Label, Mtu
from proxy.settings.document import Document, Place, suggest
from proxy.settings.parts import (
    DEFAULT_NETWORK,
    Address,
    Count,
    Name,
    Network,
    Part,
    Seconds,
    Word32,
    check_address,
    check_endpoint,
    check_prefix,
)

MAX_TOKEN_BYTES = 104  # the space in a GUE header beside the two ids: 124 - 3 - 2 * 6 - 2, in whole words
SITE = "site:"
NEXT_HOPS = ("clients", "kernel", "stream")

Interface = Annotated[str, Meta(pattern=r"^[A-Za-z0-9_.-]{1,15}$")]


class Route(Part, frozen=True):
    """The next hop of packets to `prefix`: `site:NAME`, `clients` (the tunnel that owns the destination), `kernel` (out
    of the proxy, uninspected, if it has that off-ramp) or `stream` (out of the proxy, lifted to a stream)."""

    prefix: str
    via: str
    priority: Annotated[int, Meta(ge=0, le=0xFFFF_FFFF)] = 100  # among equal prefixes the lowest wins
    weight: Count = 1  # share of flows among routes of equal priority
    # lift its flows to streams although the next hop is a tunnel, or inspect them
    level: Literal["stream", "tls", "http"] | None = None


class NetworkSettings(Part, frozen=True):
    """One virtual network of a tenant. Without routes all packets leave the proxy. Missing egress settings, and a
    missing gateway, are the tenant's."""

    routes: list[Route] = msgspec.field(default_factory=list)
    egress: Interface | None = None
    snat: list[str] = msgspec.field(default_factory=list)
    ports: str | None = None
    gateway: list[str] = msgspec.field(default_factory=list)


class Probe(Part, frozen=True):
    """Echo requests through the tunnel, from `source` to `address`; requests from there to `source` are answered."""

    address: str
    source: str
    every_s: Seconds = 0.3
    timeout_s: Seconds = 1


class Site(Part, frozen=True, kw_only=True):
    """A customer's network behind one tunnel to each of its peers."""

    name: Name
    tenant: Name
    network: Name = DEFAULT_NETWORK
    id: Word32 | None = None
    peers: Annotated[list[str], Meta(min_length=1, max_length=64)]  # known by their addresses; the port is for sending
    prefixes: Annotated[list[str], Meta(min_length=1)]  # allowed source addresses
    context: Literal["required", "none"] = "required"
    version: Literal[0, 1] = 0  # of GUE packets that are sent
    token: Annotated[str, Meta(min_length=1)] | None = None
    mtu: Mtu = 1400
    probe: Probe | None = None
    groups: list[Label] = msgspec.field(default_factory=list)  # of all its users, for policies
    status: str | None = None  # the Unix socket on which the program at its tunnel's ends reports counters


class GueOnRamp(Part, frozen=True, tag_field="kind", tag="gue"):
    """A UDP port for unconnected tunnels: the context or the outer source of each packet identifies its site."""

    listen: str
    sites: list[Site] = msgspec.field(default_factory=list)


def check_gue(
    document: Document, ramps: Sequence[tuple[Place, GueOnRamp]], tenants: Mapping[str, int | None],
    networks: Mapping[str, Collection[str]],
) -> None:  # fmt: skip
    """Check the on-ramps. DocumentError: the first mistake. `tenants`: ids by name; `networks`: names by tenant."""
    names: dict[str, Place] = {}
    listeners: dict[tuple[Address, int], Place] = {}
    ids: set[tuple[str, int]] = set()
    for place, ramp in ramps:
        listen = check_endpoint(document, ramp.listen, (*place, "listen"))
        if listen in listeners:
            raise document.error(f"{ramp.listen} is the address of another on-ramp", (*place, "listen"))
        listeners[listen] = place
        bare_peers: set[Address] = set()
        for number, site in enumerate(ramp.sites):
            at = (*place, "sites", number)
            if site.name in names:
                raise document.error(f"another site has the name '{site.name}'", (*at, "name"))
            names[site.name] = at
            _check_owner(document, site, at, tenants, networks)
            _check_context(document, site, at, tenants, ids)
            _check_peers(document, site, at, listen[0], bare_peers)
            _check_prefixes(document, site, at)
            if site.probe is not None:
                _check_probe(document, site.probe, (*at, "probe"))


def check_routes(document: Document, routes: Sequence[Route], place: Place, tenant: str, network: str,
                 sites: Collection[Site]) -> None:  # fmt: skip
    """Check the routes of one virtual network, a list at `place`. DocumentError: the first mistake."""
    seen = set()
    for number, route in enumerate(routes):
        at = (*place, number)
        prefix = check_prefix(document, route.prefix, (*at, "prefix"))
        if problem := next_hop_problem(route.via, tenant, network, sites):
            raise document.error(problem, (*at, "via"))
        if (prefix, route.via, route.priority) in seen:
            raise document.error(f"the route to {prefix} via {route.via} is listed twice", at)
        seen.add((prefix, route.via, route.priority))


def next_hop_problem(via: str, tenant: str, network: str, sites: Collection[Site]) -> str | None:
    """Why `via` is not a possible next hop in this virtual network; None: it is."""
    if via in NEXT_HOPS:
        return None
    if not via.startswith(SITE):
        known = [*NEXT_HOPS, *(SITE + site.name for site in sites if site.tenant == tenant)]
        return f"unknown next hop '{via}'{suggest(via, known)}"
    name = via.removeprefix(SITE)
    found = next((site for site in sites if site.name == name), None)
    if found is None:
        site_names = [site.name for site in sites if (site.tenant, site.network) == (tenant, network)]
        return f"unknown site '{name}'{suggest(name, site_names)}"
    if found.tenant != tenant:
        return f"site '{name}' belongs to tenant '{found.tenant}'"
    return None if found.network == network else f"site '{name}' is in network '{found.network}' of the tenant"


def route_problem(routes: Sequence[Route], tenant: str, network: str, sites: Collection[Site]) -> str | None:
    """The first mistake in routes that are to replace those of a running proxy; None: they are valid."""
    for route in routes:
        try:
            ip_network(route.prefix)
        except ValueError as error:
            return f"not a prefix: {error}"
        if problem := next_hop_problem(route.via, tenant, network, sites):
            return problem
    return None


def _check_owner(
    document: Document, site: Site, at: Place, tenants: Collection[str], networks: Mapping[str, Collection[str]]
) -> None:
    if site.tenant not in tenants:
        raise document.error(f"unknown tenant '{site.tenant}'{suggest(site.tenant, tenants)}", (*at, "tenant"))
    known = {DEFAULT_NETWORK, *networks[site.tenant]}
    if site.network not in known:
        raise document.error(f"unknown network '{site.network}'{suggest(site.network, known)}", (*at, "network"))


def _check_context(
    document: Document, site: Site, at: Place, tenants: Mapping[str, int | None], ids: set[tuple[str, int]]
) -> None:
    if site.id is not None:
        if (site.tenant, site.id) in ids:
            raise document.error(f"another site of tenant '{site.tenant}' has the id {site.id}", (*at, "id"))
        ids.add((site.tenant, site.id))
    if site.token is not None and len(site.token.encode()) > MAX_TOKEN_BYTES:
        raise document.error(f"a token has at most {MAX_TOKEN_BYTES} bytes", (*at, "token"))
    if site.context == "none":
        if site.token is not None:
            raise document.error("a token is part of the context: remove it, or 'context: none'", (*at, "token"))
        return
    if site.version == 1:
        raise document.error("version 1 has no header for a context; add 'context: none'", (*at, "version"))
    if site.id is None:
        raise document.error("key 'id' is required for a site with context", at)
    if tenants[site.tenant] is None:
        raise document.error(f"tenant '{site.tenant}' needs an 'id' for contexts to name it", (*at, "tenant"))


def _check_peers(document: Document, site: Site, at: Place, listen: Address, bare: set[Address]) -> None:
    addresses: set[Address] = set()
    for index, peer in enumerate(site.peers):
        place = (*at, "peers", index)
        address, _ = check_endpoint(document, peer, place)
        if address.version != listen.version:
            raise document.error(f"the on-ramp listens on IPv{listen.version}, and this is IPv{address.version}", place)
        if address in addresses:
            raise document.error(f"the address {address} is listed twice: a peer is identified by its address", place)
        addresses.add(address)
        if site.context == "none":
            if address in bare:
                message = f"another site without context has the peer {address}: their packets could not be told apart"
                raise document.error(message, place)
            bare.add(address)


def _check_prefixes(document: Document, site: Site, at: Place) -> None:
    checked: list[Network] = []
    for index, text in enumerate(site.prefixes):
        place = (*at, "prefixes", index)
        prefix = check_prefix(document, text, place)
        for other in checked:
            if prefix.overlaps(other):
                raise document.error(f"{prefix} overlaps {other} of the same site", place)
        checked.append(prefix)


def _check_probe(document: Document, probe: Probe, at: Place) -> None:
    address = check_address(document, probe.address, (*at, "address"))
    source = check_address(document, probe.source, (*at, "source"))
    if address.version != source.version:
        raise document.error("address and source are of different families", (*at, "source"))
    if address == source:
        raise document.error("address and source are the same", (*at, "source"))


def all_sites(ramps: Sequence[object]) -> Iterator[Site]:
    """The sites of every GUE on-ramp."""
    for ramp in ramps:
        if isinstance(ramp, GueOnRamp):
            yield from ramp.sites

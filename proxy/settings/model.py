"""The structure of `proxy.yaml`: its keys, defaults and units."""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from proxy.settings.document import Document, Place, read, suggest
from proxy.settings.egress import check_each_family, check_egress
from proxy.settings.inspection import Inspection, InspectorCount, check_inspection, resolve_paths
from proxy.settings.parts import DEFAULT_NETWORK, EVERYWHERE, Count, Name, Part, Seconds, Word32, check_prefix
from proxy.settings.sites import GueOnRamp, Interface, NetworkSettings, Site, all_sites, check_gue, check_routes

OffRampName = Literal["sockets", "kernel"]


class Limits(Part, frozen=True):
    """The resources that one tenant may use at once."""

    flows: Count = 500_000
    new_flows_per_s: Count = 100_000
    tunnels: Count = 1_000
    bytes_held: Count = 64 << 20  # in the queues of its tunnels, and in fragments waiting for reassembly


class TenantSettings(Part, frozen=True):
    """One customer. Without `token` any token is accepted: for labs, and sockets that only trusted users can access."""

    id: Word32 | None = None  # its id in contexts of unconnected tunnels, needed only for them
    token: str | None = None
    # the addresses that its tunnels may claim
    prefixes: list[str] = msgspec.field(default_factory=lambda: list(EVERYWHERE))
    limits: Limits = Limits()
    # the outgoing interface of its traffic, regardless of routes: origins of different tenants may share an address
    egress: Interface | None = None
    # source NAT of the kernel off-ramp: an address of each family (by default the interface's own), and a range of
    # ports such as 2048-4095
    snat: list[str] = msgspec.field(default_factory=list)
    ports: str | None = None
    # the proxy's own address in its tunnels, one of each family at most: ICMP errors come from there
    gateway: list[str] = msgspec.field(default_factory=list)
    offramp: OffRampName | None = None  # by default the proxy's
    # the level of its flows, unless a route, a policy or a hook sets it
    level: Literal["packet", "stream", "tls", "http", "ssh"] = "packet"
    inspection: Inspection = Inspection()
    # the DSCP (RFC 2474) of packets to origins and back
    dscp: Literal["keep", "clear"] | Annotated[int, Meta(ge=0, le=63)] = "keep"
    # which datagrams are accepted for a client's endpoint (filtering behaviour, RFC 4787 REQ-8)
    udp_filtering: Literal["endpoint", "address", "address-and-port"] = "address"
    policies: list[str] = msgspec.field(default_factory=list)  # files, applied after those for all tenants
    # virtual networks; `default` always exists
    networks: dict[Name, NetworkSettings] = msgspec.field(default_factory=dict)


class ConnectedOnRamp(Part, frozen=True, tag_field="kind", tag="connected"):
    """Tunnels that connect to a Unix SEQPACKET socket and name their tenant in the first datagram."""

    path: str
    mode: Annotated[int, Meta(ge=0, le=0o777)] = 0o600


class TunOnRamp(Part, frozen=True, tag_field="kind", tag="tun"):
    """A TUN device that the proxy opens: all packets routed into it belong to one tenant."""

    device: Interface
    tenant: Name
    network: Name = DEFAULT_NETWORK
    addresses: list[str] = msgspec.field(default_factory=list)  # of the device, with prefix lengths
    sources: list[str] = msgspec.field(default_factory=lambda: list(EVERYWHERE))  # allowed source addresses
    mtu: Annotated[int, Meta(ge=1280, le=65_535)] = 1500
    offload: bool = True
    user: str | None = None


class InterfaceOnRamp(Part, frozen=True, tag_field="kind", tag="interface"):
    """Kernel interfaces (veth, GRE, FOU, ESP, ...): all packets that arrive there to be forwarded belong to one tenant.

    The kernel forwards flows that have been decided; the proxy gets only the packets needed to decide. Requires
    `offramp: kernel`.
    """

    interfaces: Annotated[list[Interface], Meta(min_length=1, max_length=64)]
    tenant: Name
    network: Name = DEFAULT_NETWORK
    sources: list[str] = msgspec.field(default_factory=lambda: list(EVERYWHERE))  # allowed source addresses
    user: str | None = None


OnRamp = ConnectedOnRamp | TunOnRamp | GueOnRamp | InterfaceOnRamp


class Timeouts(Part, frozen=True):
    """TCP follows public services (connect 30 s, idle 8 h); UDP follows RFC 4787 REQ-5 and conntrack."""

    context_s: Seconds = 5
    connect_s: Seconds = 30
    tcp_idle_s: Seconds = 8 * 3600
    tcp_half_closed_s: Seconds = 3600
    udp_unreplied_s: Seconds = 30
    udp_idle_s: Seconds = 120
    dns_idle_s: Seconds = 10
    icmp_idle_s: Seconds = 30
    fragments_s: Seconds = 15
    sniff_s: Seconds = 3  # for the client's first bytes; after that, the flow is relayed uninspected
    tls_s: Seconds = 15  # for the handshakes of both sides
    drain_s: Seconds = 5  # for inspected sessions to close properly when the proxy stops


class LineFile(Part, frozen=True):
    """A file of JSON lines, and its rotated predecessors (`.1` is the most recent)."""

    path: str
    max_bytes: Annotated[int, Meta(ge=4096)] = 100_000_000
    files: Annotated[int, Meta(ge=1, le=1000)] = 10


class Audit(LineFile, frozen=True):
    """Records of flows as JSON lines, for collectors."""

    events: tuple[Literal["start", "connected", "update", "end"], ...] = ("end",)


class SpanExport(Part, frozen=True):
    """An OpenTelemetry collector that receives a span for each ended flow, by OTLP over HTTP."""

    endpoint: Annotated[str, Meta(pattern=r"^https?://[^\s/]+")]  # http://collector:4318/v1/traces
    headers: dict[str, str] = msgspec.field(default_factory=dict)
    timeout_s: Seconds = 5


class Records(Part, frozen=True):
    """Where records of ended flows are stored, and for how long."""

    path: str = "flows.db"
    max_age_s: Seconds = 7 * 86_400
    max_rows: Count = 1_000_000
    max_children: Count = 1_000_000  # requests, SSH channels and files of inspected flows
    update_every_s: Seconds = 30
    audit: Audit | None = None
    spans: SpanExport | None = None  # needs the extra `otel`
    requests: LineFile | None = None  # of inspected sessions: a line for each HTTP request, channel and file


class Bridge(Part, frozen=True):
    """The private namespace in which the kernel's TCP terminates flows."""

    mtu: Annotated[int, Meta(ge=1280, le=65_535)] = 1500
    backlog: Count = 4096


class KernelOffRamp(Part, frozen=True):
    """Resources of the proxy's network namespace that the `kernel` off-ramp uses, and releases when the proxy stops."""

    instance: Annotated[str, Meta(pattern=r"^[A-Za-z0-9_]{1,32}$")] = "proxy"  # in the name of its table: oxy_proxy
    mark: Annotated[int, Meta(ge=0, le=0xFFFF_0000, multiple_of=0x1_0000)] = 0x6F78_0000  # the lower half is ours
    first_zone: Annotated[int, Meta(ge=1, le=60_000)] = 0x6F78  # conntrack zones: one for each virtual network
    priority: Annotated[int, Meta(ge=1, le=32_000)] = 60  # of the first of four groups of routing rules
    first_table: Annotated[int, Meta(ge=256, le=0xFFFF_0000)] = 0x6F78_0000  # number of the first routing table
    orphans: Literal["continue", "stop"] = "continue"  # flows of `interface` on-ramps while the proxy is down
    orphans_s: Seconds = 60  # how long they continue
    flowtable: bool = False  # established flows of `interface` on-ramps bypass netfilter, if the kernel has flowtables


class Settings(Part, frozen=True):
    """All settings of `python -m proxy proxy.yaml`. Relative paths are relative to the file."""

    tenants: dict[Name, TenantSettings]
    onramps: list[OnRamp]
    node: str | None = None  # the name in records; the host's by default
    control: str = "control.sock"
    hooks: str | None = None  # "module:Class" or "file.py:Class" of a proxy.hooks.Hooks
    policies: list[str] = msgspec.field(default_factory=list)  # files, for all tenants
    watch_policies: bool = False  # reload them when a file changes
    state: str = "state"  # a directory: authorities of tenants
    inspectors: InspectorCount = "auto"  # processes that inspect sessions; `auto`: one per core, 0: the proxy itself
    offramp: OffRampName = "sockets"  # of uninspected flows; `kernel` changes the proxy's namespace
    kernel: KernelOffRamp = KernelOffRamp()
    descriptors: Annotated[int, Meta(ge=64)] | None = None  # maximum open at once; by default the kernel's limit
    timeouts: Timeouts = Timeouts()
    records: Records = Records()
    bridge: Bridge = Bridge()


def load(path: str | Path) -> Settings:
    """The settings in the file `path`, with absolute paths. DocumentError: a mistake, with file, line and column."""
    document = read(path)
    settings = document.convert(Settings)
    _check(document, settings)
    base = Path(path).resolve().parent
    replace = msgspec.structs.replace
    return replace(
        settings,
        control=str(base / settings.control),
        hooks=_resolve_hooks_path(base, settings.hooks),
        policies=[str(base / each) for each in settings.policies],
        state=str(base / settings.state),
        tenants={
            name: replace(
                tenant,
                policies=[str(base / each) for each in tenant.policies],
                inspection=resolve_paths(tenant.inspection, base),
            )
            for name, tenant in settings.tenants.items()
        },
        records=replace(settings.records, path=str(base / settings.records.path)),
        onramps=[
            replace(ramp, path=str(base / ramp.path)) if isinstance(ramp, ConnectedOnRamp) else ramp
            for ramp in settings.onramps
        ],
    )


def _resolve_hooks_path(base: Path, hooks: str | None) -> str | None:
    """The setting `hooks` with the path of a file, relative to `base`, made absolute."""
    place, _, name = (hooks or "").rpartition(":")
    return f"{base / place}:{name}" if place.endswith(".py") or "/" in place else hooks


def _check(document: Document, settings: Settings) -> None:
    if not settings.tenants:
        raise document.error("at least one tenant is required", ("tenants",))
    if not settings.onramps:
        raise document.error("at least one on-ramp is required", ("onramps",))
    check_tenants(document, settings.tenants)
    for number, ramp in enumerate(settings.onramps):
        if isinstance(ramp, TunOnRamp):
            _check_tun(document, settings, ramp, ("onramps", number))
        elif isinstance(ramp, InterfaceOnRamp):
            _check_interfaces(document, settings, ramp, number)
    _check_sites(document, settings)
    if settings.hooks is not None and not all(settings.hooks.rpartition(":")):
        raise document.error(f"expected 'module:Class' or 'file.py:Class' (found {settings.hooks!r})", ("hooks",))


def check_tenants(document: Document, tenants: Mapping[str, TenantSettings], place: Place = ("tenants",)) -> None:
    """Check what types do not catch in the tenants at `place`. DocumentError: the first mistake."""
    ids: dict[int, str] = {}
    for name, tenant in tenants.items():
        own = (*place, name)
        for index, prefix in enumerate(tenant.prefixes):
            check_prefix(document, prefix, (*own, "prefixes", index))
        check_egress(document, tenant.snat, tenant.ports, own)
        check_each_family(document, tenant.gateway, (*own, "gateway"))
        check_inspection(document, tenant.inspection, (*own, "inspection"))
        for network, network_settings in tenant.networks.items():
            path = (*own, "networks", network)
            check_egress(document, network_settings.snat, network_settings.ports, path)
            check_each_family(document, network_settings.gateway, (*path, "gateway"))
        if tenant.id is not None and ids.setdefault(tenant.id, name) != name:
            raise document.error(f"tenant '{ids[tenant.id]}' has the id {tenant.id}", (*own, "id"))


def _check_sites(document: Document, settings: Settings) -> None:
    tenants = settings.tenants
    ramps = [(("onramps", number), ramp) for number, ramp in enumerate(settings.onramps) if isinstance(ramp, GueOnRamp)]
    ids = {name: tenant.id for name, tenant in tenants.items()}
    check_gue(document, ramps, ids, {name: tenant.networks for name, tenant in tenants.items()})
    sites: list[Site] = list(all_sites(settings.onramps))
    for name, tenant in tenants.items():
        for network, network_settings in tenant.networks.items():
            place = ("tenants", name, "networks", network, "routes")
            check_routes(document, network_settings.routes, place, name, network, sites)


def _check_interfaces(document: Document, settings: Settings, ramp: InterfaceOnRamp, number: int) -> None:
    place: Place = ("onramps", number)
    _check_owner(document, settings, ramp, place)
    if (settings.tenants[ramp.tenant].offramp or settings.offramp) != "kernel":
        raise document.error("an interface on-ramp needs 'offramp: kernel'", (*place, "kind"))
    others = settings.onramps[:number]
    claimed = {name for other in others if isinstance(other, InterfaceOnRamp) for name in other.interfaces}
    for index, name in enumerate(ramp.interfaces):
        if name in claimed or name in ramp.interfaces[:index]:
            raise document.error(f"the interface '{name}' is listed twice", (*place, "interfaces", index))


def _check_owner(document: Document, settings: Settings, ramp: TunOnRamp | InterfaceOnRamp, place: Place) -> None:
    if ramp.tenant not in settings.tenants:
        message = f"unknown tenant '{ramp.tenant}'{suggest(ramp.tenant, settings.tenants)}"
        raise document.error(message, (*place, "tenant"))
    known = {DEFAULT_NETWORK, *settings.tenants[ramp.tenant].networks}
    if ramp.network not in known:
        raise document.error(f"unknown network '{ramp.network}'{suggest(ramp.network, known)}", (*place, "network"))
    for index, prefix in enumerate(ramp.sources):
        check_prefix(document, prefix, (*place, "sources", index))


def _check_tun(document: Document, settings: Settings, ramp: TunOnRamp, place: Place) -> None:
    _check_owner(document, settings, ramp, place)
    for index, address in enumerate(ramp.addresses):
        try:
            ipaddress.ip_interface(address)
        except ValueError as error:
            raise document.error(
                f"not an address with its prefix length: {error}", (*place, "addresses", index)
            ) from None

"""The view of a running proxy for the control API: live flows, tunnels, counters."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from typing import Literal

import msgspec

from proxy import __version__
from proxy.context import OFFLOAD, TunnelContext, group_names
from proxy.control.schema import (
    AuthorityView,
    FlowQuery,
    InspectorStatus,
    KernelOffRampStatus,
    Page,
    PolicyView,
    RecordsStatus,
    RouteInfo,
    RoutesChange,
    SSHView,
    Status,
    TenantStatus,
    TunnelInfo,
)
from proxy.errors import DropReason, ProxyError
from proxy.flow.child import (
    ChildFilters,
    ChildPage,
    ChildQuery,
    request_wanted,
    requests_excluded,
    without_requests,
)
from proxy.flow.flow import Flow
from proxy.flow.groups import GroupsPage, GroupsQuery
from proxy.flow.record import FlowRecord
from proxy.flow.route_table import RouteTable
from proxy.flow.tenant import Network, Tenant
from proxy.kernel.carrier import RampCarrier
from proxy.kernel.facts import conntrack_usage
from proxy.kernel.private import PrivateNamespace
from proxy.kernel.pump import BridgePump
from proxy.offramps.kernel import KernelOffRamp
from proxy.offramps.tunnel import routes_changed
from proxy.onramps.connected import ConnectedRamp
from proxy.onramps.site import SiteTunnel
from proxy.onramps.unconnected import GueRamp
from proxy.settings import suggest
from proxy.settings.sites import SITE, route_problem
from proxy.stream.inspectors import InspectorHandle, Inspectors
from proxy.stream.lifecycle import Lifecycle
from proxy.telemetry.children import Children
from proxy.telemetry.end_drops import end_drops
from proxy.telemetry.flowlog import FlowLog
from proxy.telemetry.jsonlines import JsonLines
from proxy.telemetry.livescan import count_groups, count_routes, find_flow, scan, stream
from proxy.telemetry.metrics import render
from proxy.telemetry.spans import Spans


class View:
    """The ProxyView of `proxy.control.schema`, over the proxy's own tables."""

    def __init__(
        self,
        node: str,
        tenants: Mapping[str, Tenant],
        lifecycle: Lifecycle,
        flow_log: FlowLog,
        namespace: PrivateNamespace,
        pumps: Sequence[BridgePump],
        ramps: Sequence[ConnectedRamp],
        ports: Sequence[GueRamp] = (),
        kernel: KernelOffRamp | None = None,
        kernel_problem: str | None = None,
    ) -> None:
        """`kernel_problem`: why there is no `kernel`, although the settings ask for it."""
        self.audit: JsonLines | None = None
        self.spans: Spans | None = None
        self.state: Literal["running", "draining"] = "running"
        self.policy: PolicyView | None = None
        self.ssh: SSHView | None = None
        self._node, self._tenants, self._lifecycle, self._log = node, tenants, lifecycle, flow_log
        self._namespace, self._pumps, self._ramps, self._ports = namespace, pumps, ramps, ports
        self._kernel, self._kernel_problem = kernel, kernel_problem
        self.authorities: AuthorityView | None = None
        self.inspectors: Inspectors | None = None
        self._started_ns = time.time_ns()
        self.children = Children(flow_log.submit_child)
        lifecycle.subscribe(self.children.flow_ended, "end")
        self._ended: dict[str, Counter[str]] = {name: Counter() for name in tenants}
        lifecycle.subscribe(self._count_end, "end")

    def status(self) -> Status:
        """The state of everything at one moment."""
        tenants = {name: self._tenant_status(tenant) for name, tenant in self._tenants.items()}
        drops: Counter[str] = Counter()
        flows: Counter[str] = Counter()
        for tenant in tenants.values():
            drops.update(tenant.drops)
            flows.update(tenant.flows)
        kernel = self._namespace.counters()
        drops[DropReason.STRAY] += sum(pump.strays for pump in self._pumps)
        drops[DropReason.KERNEL_IP] += sum(kernel[name] for name in kernel if name.startswith("Ip"))
        drops[DropReason.KERNEL_TCP] += kernel.get("Tcp.InErrs", 0)
        drops[DropReason.TUNNEL_REFUSED] += sum(ramp.refused for ramp in self._ramps)
        if self._kernel is not None:
            drops.update(self._kernel.drops())
        for port in self._ports:
            drops.update(port.drops)
            drops[DropReason.SOCKET_OVERFLOW] += port.overflows
        now_ns = time.time_ns()
        return Status(
            node=self._node,
            version=__version__,
            pid=os.getpid(),
            started=self._started_ns,
            uptime_s=(now_ns - self._started_ns) / 1e9,
            state=self.state,
            tunnels=sum(tenant.tunnels for tenant in tenants.values()),
            flows=dict(flows),
            tenants=tenants,
            drops={str(reason): count for reason, count in drops.items() if count},
            records=self._records(),
            kernel=kernel,
            kernel_offramp=self._kernel_status(),
            inspectors=[] if self.inspectors is None else [_inspector(each) for each in self.inspectors.handles],
            key_logs={} if self.inspectors is None else self.inspectors.broker.key_logs.paths,
            inspectors_died=0 if self.inspectors is None else self.inspectors.deaths,
        )

    def _records(self) -> RecordsStatus:
        audit_lost = 0 if self.audit is None else self.audit.lost
        spans_lost = 0 if self.spans is None else self.spans.lost
        return msgspec.structs.replace(self._log.status(), audit_lost=audit_lost, spans_lost=spans_lost)

    def _kernel_status(self) -> KernelOffRampStatus:
        kernel = self._kernel
        if kernel is None:
            state: Literal["sockets", "unavailable"] = "unavailable" if self._kernel_problem else "sockets"
            return KernelOffRampStatus(state=state, reason=self._kernel_problem)
        entries, maximum = conntrack_usage() or (0, 0)
        return KernelOffRampStatus(
            state="kernel",
            table=kernel.table,
            devices=kernel.devices,
            conntrack_entries=entries,
            conntrack_max=maximum,
            repairs=kernel.repairs,
            lost=kernel.lost,
        )

    def tunnels(self, tenant: str | None) -> list[TunnelInfo]:
        """The open tunnels."""
        found = []
        for owner in self._selected(tenant):
            found += [_tunnel_info(tunnel, owner.live_by_carrier[tunnel]) for tunnel in _carriers(owner)]
        return found

    async def routes(self, tenant: str | None) -> list[RouteInfo]:
        """The routes of every virtual network that has some."""
        found: list[RouteInfo] = []
        for owner in self._selected(tenant):
            routed = [network for network in owner.networks.values() if network.routes is not None]
            counts = await count_routes(owner) if routed else Counter()
            found += [info for network in routed for info in _routes(network, counts)]
        return found

    def set_routes(self, change: RoutesChange) -> None:
        """Replace a network's routes. Only flows whose next hop changes are rerouted."""
        tenant = self._tenants.get(change.tenant)
        if tenant is None:
            raise ProxyError(f"unknown tenant '{change.tenant}'{suggest(change.tenant, self._tenants)}")
        network = tenant.networks.get(change.network)
        if network is None:
            raise ProxyError(f"unknown network '{change.network}'{suggest(change.network, tenant.networks)}")
        sites = [tunnel.settings for port in self._ports for tunnel in port.tunnels]
        if problem := route_problem(change.routes, change.tenant, change.network, sites):
            raise ProxyError(problem)
        network.routes = RouteTable(change.routes) if change.routes else None
        routes_changed(network)

    async def resolve_request_filters(self, query: FlowQuery) -> FlowQuery | None:
        """The query for live flows, with its conditions on requests resolved to flows; None: no flow matches."""
        wanted, excluded_requests = request_wanted(query), requests_excluded(query.excluded)
        is_needed = wanted is not None or bool(excluded_requests)
        flow_ids = list(self.children.flows_with_children(query.tenant)) if is_needed else []
        changes, excluded = without_requests(query, is_wanted=True), without_requests(query.excluded, is_wanted=False)
        if wanted is not None:
            found = await self._flows_with(wanted, flow_ids, query.tenant)
            changes["flow_id"] = tuple(found & set(query.flow_id) if query.flow_id else found)
            if not changes["flow_id"]:
                return None
        for each in excluded_requests:
            names = (*query.excluded.flow_id, *await self._flows_with(each, flow_ids, query.tenant))
            excluded["flow_id"] = (*excluded.get("flow_id", ()), *names)
        changes["excluded"] = msgspec.structs.replace(query.excluded, **excluded)
        return msgspec.structs.replace(query, **changes)

    async def _flows_with(self, filters: ChildFilters, flow_ids: Sequence[str], tenant: str | None) -> set[str]:
        """The subset of these flows with a request that matches, ended or open."""
        fields = msgspec.structs.asdict(filters)
        found = {child.flow_id for child in self.children.open(ChildQuery(tenant=tenant, **fields))}
        return found | await self._log.flows_with(filters, "request", flow_ids)

    async def list_children(self, query: ChildQuery) -> ChildPage:
        """The children that match: first the open ones, then those that have ended, newest end first."""
        return await self.children.list_children(query, self._log.children)

    async def live_flows(self, query: FlowQuery) -> list[FlowRecord]:
        """The first flows without an end record, in the query's order."""
        count = self._kernel.count if self._kernel is not None else _skip_count
        return await scan(self._selected(query.tenant), query, count, self._lifecycle.snapshot)

    async def past_flows(self, query: FlowQuery) -> Page:
        """Ended flows, from the store."""
        return await self._log.query(query)

    def all_live_flows(self, query: FlowQuery) -> AsyncGenerator[FlowRecord, None]:
        """Every live flow that matches, record by record."""
        count = self._kernel.count if self._kernel is not None else _skip_count
        return stream(self._selected(query.tenant), query, count, self._lifecycle.snapshot)

    async def recorded_tenants(self) -> list[str]:
        """The tenants that have past flows."""
        return await self._log.tenants()

    async def flow_groups(self, query: GroupsQuery) -> GroupsPage:
        """Live and past flows, aggregated together."""
        live, counted, ended = {}, set[str](), dict[str, int]()

        def note_end(record: FlowRecord) -> None:
            if record.flow_id in counted:
                ended[record.flow_id] = record.end or record.start

        unsubscribe = self.watch_ends(query.flows.tenant, note_end)
        try:
            if query.flows.scope != "past" and (flows := await self.resolve_request_filters(query.flows)) is not None:
                count = self._kernel.count if self._kernel is not None else _skip_count
                live = await count_groups(self._selected(flows.tenant), flows, query.by, count, counted)
            return await self._log.groups(query, live, ended)
        finally:
            unsubscribe()

    def watch(self, tenant: str | None, put: Callable[[FlowRecord], None]) -> Callable[[], None]:
        """Pass each later event of the tenant's flows to `put`. Returns a function that ends the watch."""
        return self._lifecycle.subscribe(_of_tenant(tenant, put))

    def watch_ends(self, tenant: str | None, put: Callable[[FlowRecord], None]) -> Callable[[], None]:
        """As `watch`, for end records only."""
        return self._lifecycle.subscribe(_of_tenant(tenant, put), "end")

    async def kill(self, flow_id: str, tenant: str | None) -> bool:
        """End a live flow. Returns False if the tenant has no such flow."""
        flow = await find_flow(self._selected(tenant), flow_id)
        if flow is None or flow.handler is None:
            return False
        flow.handler.end("admin_killed")
        return True

    async def metrics(self) -> str:
        """The status as Prometheus text."""
        carriers = [carrier for tenant in self._tenants.values() for carrier in tenant.carriers.values()]
        sites = {each.settings.name: each.settings for each in carriers if isinstance(each, SiteTunnel)}
        return render(self.status(), self.tunnels(None), await end_drops(sites.values()))

    def _selected(self, tenant: str | None) -> list[Tenant]:
        if tenant is None:
            return list(self._tenants.values())
        return [self._tenants[tenant]] if tenant in self._tenants else []

    def _count_end(self, record: FlowRecord) -> None:
        self._ended[record.tenant][record.close_reason or "unknown"] += 1

    def _tenant_status(self, tenant: Tenant) -> TenantStatus:
        tunnels = _carriers(tenant)
        return TenantStatus(
            tunnels=len(tunnels),
            flows={protocol: count for protocol, count in tenant.live_by_protocol.items() if count},
            flows_started=dict(tenant.opened),
            flows_ended=dict(self._ended[tenant.name]),
            client_packets=tenant.closed_traffic[0] + sum(tunnel.packets_in for tunnel in tunnels),
            client_bytes=tenant.closed_traffic[1] + sum(tunnel.bytes_in for tunnel in tunnels),
            origin_packets=tenant.closed_traffic[2] + sum(tunnel.packets_out for tunnel in tunnels),
            origin_bytes=tenant.closed_traffic[3] + sum(tunnel.bytes_out for tunnel in tunnels),
            drops={str(reason): count for reason, count in tenant.drops.items()},
        )


def _of_tenant(tenant: str | None, put: Callable[[FlowRecord], None]) -> Callable[[FlowRecord], None]:
    def sink(record: FlowRecord) -> None:
        if tenant is None or record.tenant == tenant:
            put(record)

    return sink


def _skip_count(flows: Sequence[Flow]) -> None:
    """Do nothing: without the kernel off-ramp, the proxy itself counts every packet."""


def _inspector(handle: InspectorHandle) -> InspectorStatus:
    return InspectorStatus(
        number=handle.number,
        pid=handle.pid,
        is_ready=handle.shortfalls is not None,
        sessions=len(handle.sessions),
        served=handle.served,
        memory_bytes=handle.memory_bytes,
        shortfalls=handle.shortfalls or [],
    )


def _carriers(tenant: Tenant) -> list[RampCarrier]:
    return [carrier for carrier in tenant.carriers.values() if isinstance(carrier, RampCarrier)]


def _tunnel_info(tunnel: RampCarrier, flows: int) -> TunnelInfo:
    info = TunnelInfo(
        id=tunnel.id,
        onramp=tunnel.kind,
        tenant=tunnel.tenant.name,
        user=tunnel.user,
        device=tunnel.device,
        addresses=tunnel.addresses,
        mtu=tunnel.mtu,
        offload=OFFLOAD if tunnel.header_bytes else None,
        opened=tunnel.opened_ns,
        packets_in=tunnel.packets_in,
        bytes_in=tunnel.bytes_in,
        packets_out=tunnel.packets_out,
        bytes_out=tunnel.bytes_out,
        queued_bytes=tunnel.queued_bytes,
        flows=flows,
        network=tunnel.network.name,
        site=tunnel.site,
        refused=tunnel.refused,
    )
    context: TunnelContext | None = getattr(tunnel, "context", None)
    if context is not None:
        info.groups = [*group_names(context)]
        if context.posture is not None:
            info.posture_passed, info.posture_failed = context.posture.passed, context.posture.failed
    if isinstance(tunnel, SiteTunnel):
        host, port = tunnel.peer
        info.peer = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
        if tunnel.probes is not None:
            info.health, info.rtt_ms = tunnel.probes.health.value, tunnel.probes.rtt_ms
            info.probes_answered, info.probes_lost = tunnel.probes.counts
    return info


def _routes(network: Network, counts: Counter[tuple[str, str]]) -> Iterator[RouteInfo]:
    assert network.routes is not None
    for route in network.routes.routes:
        peers = network.sites.get(route.via.removeprefix(SITE), []) if route.via.startswith(SITE) else None
        costs = [route.priority + peer.penalty for peer in peers] if peers is not None else [route.priority]
        yield RouteInfo(
            tenant=network.tenant.name,
            network=network.name,
            prefix=route.prefix,
            via=route.via,
            priority=route.priority,
            weight=route.weight,
            level=route.level,
            cost=min(costs, default=None),
            flows=counts[network.name, f"{route.prefix} via {route.via}"],
        )

"""The composition root: the only module that knows all the others. Start, serve, stop."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import sys
import time
from collections.abc import Iterable, Iterator
from functools import partial
from itertools import chain

import msgspec

from proxy.ca.store import Authorities
from proxy.control.server import ControlServer
from proxy.errors import ProxyError
from proxy.flow.flow import Flow
from proxy.flow.record import FlowRecord
from proxy.flow.route_table import RouteTable
from proxy.flow.tenant import Tenant
from proxy.hooks import HookRunner, load_hooks
from proxy.kernel.bridge import Bridge
from proxy.kernel.dialer import Dialer
from proxy.kernel.policy_routing import find_obstacles, is_configured
from proxy.kernel.private import PrivateNamespace
from proxy.kernel.pump import BridgePump
from proxy.offramps.kernel import KernelOffRamp
from proxy.offramps.sockets import raise_descriptor_limit
from proxy.offramps.tunnel import TunnelOffRamp
from proxy.onramps.connected import ConnectedRamp
from proxy.onramps.permission import TunnelPermission
from proxy.onramps.tun import TunRamp
from proxy.onramps.tunnel import Tunnel
from proxy.onramps.unconnected import GueRamp
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.plane import Opener, Plane
from proxy.policy.judge import PolicyJudge
from proxy.policy.load import check_body_hook
from proxy.policy.source import FileSource
from proxy.poller import IN, Poller
from proxy.settings import DocumentError, GueOnRamp, InterfaceOnRamp, Settings, TunOnRamp, suggest
from proxy.settings.inspection import Inspection
from proxy.stream.broker import Broker
from proxy.stream.datagrams import DatagramPlane
from proxy.stream.descriptors import Descriptors
from proxy.stream.echo import EchoFlow
from proxy.stream.flow_setup import FlowSetup
from proxy.stream.inspectors import Inspectors
from proxy.stream.lifecycle import Lifecycle
from proxy.stream.relay import close_pool
from proxy.stream.tcp import TcpPlane
from proxy.stream.udp_tunnel import open_session
from proxy.telemetry.flowlog import FlowLog
from proxy.telemetry.jsonlines import JsonLines
from proxy.telemetry.spans import Spans, otlp_exporter
from proxy.telemetry.ssh_view import SSHView
from proxy.telemetry.view import View
from proxy.wire.virtio import HEADER_BYTES

log = logging.getLogger(__name__)

ADOPTION_S = 60.0  # from the start: connections that a killed proxy carried are resumed by a segment of their origin
RESERVED_DESCRIPTORS = 1_500  # for tunnels, connecting clients, the control API, the flow log and pooled pipes
SLICE_S = 0.002  # pause between two slices of background work, in which packets are handled


class Proxy:
    """One running proxy."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.tenants = {
            name: Tenant(name, tenant, fragments_s=settings.timeouts.fragments_s)
            for name, tenant in settings.tenants.items()
        }
        for name, tenant in settings.tenants.items():
            for network, network_settings in tenant.networks.items():
                if network_settings.routes:
                    self.tenants[name].networks[network].routes = RouteTable(network_settings.routes)
        self._stack = contextlib.AsyncExitStack()
        self._ramps: list[ConnectedRamp] = []
        self._ports: list[GueRamp] = []
        self._bridges: dict[int, Bridge] = {}
        self._pumps: list[BridgePump] = []
        self._kernel: KernelOffRamp | None = None
        self._judge: PolicyJudge | None = None
        self._permission = TunnelPermission(self.tenants, self._tunnel_closed)
        self.kernel_problem: str | None = None  # why the configured kernel off-ramp is not used

    async def start(self) -> None:
        """Open everything. ProxyError: something could not be opened; `stop` closes the rest."""
        settings, defer = self.settings, self._stack
        _check_egress(settings)
        hooks = load_hooks(settings.hooks)
        node = settings.node or socket.gethostname()
        limit = min(raise_descriptor_limit(), settings.descriptors or sys.maxsize)
        descriptors = Descriptors(limit - min(RESERVED_DESCRIPTORS, limit // 4), self.tenants.values())
        flow_log = FlowLog(settings.records)
        defer.push_async_callback(flow_log.close)
        self._poller = Poller(asyncio.get_running_loop())
        defer.callback(self._poller.close)
        self._hooks = HookRunner(hooks, scheduled=self._poller.yield_to_asyncio)
        self._lifecycle = Lifecycle(node, self._hooks, descriptors)
        defer.callback(close_pool)
        namespace = PrivateNamespace()
        defer.callback(namespace.close)
        self._open_bridges(namespace)
        self._dialer = Dialer(namespace, self._bridges)
        defer.callback(self._dialer.close)
        if is_configured(settings):
            remember, tun = partial(self._remember, flow_log), self._bridges[HEADER_BYTES].tun
            self._kernel = KernelOffRamp(settings, self.tenants, self._poller, remember, tun)
            defer.callback(self._kernel.close)
        self._open_inspectors()
        plane = self._make_plane()
        self._open_kernel(plane, flow_log)
        ramps = self._ramps, self._ports
        kernel = self._kernel, self.kernel_problem
        self._view = View(node, self.tenants, self._lifecycle, flow_log, namespace, self._pumps, *ramps, *kernel)
        self._view.authorities = self._inspectors.broker.authorities
        self._view.inspectors = self._inspectors
        self._view.policy = self._lifecycle.admission.judge = self._judge = self._load_policies()
        if self._judge is not None:
            self._inspectors.set_policies(self._judge.policies)
            self._judge.subscribe(self._inspectors.set_policies)
            self._inspectors.decided = self._judge.count
        if any(tenant.inspection.ssh is not None for tenant in settings.tenants.values()):
            keys = self._inspectors.broker.ssh.keys
            self._view.ssh = SSHView(self._inspectors, keys, settings.tenants, settings.state)
        self._lifecycle.subscribe(flow_log.submit, "end")
        if (audit := settings.records.audit) is not None and audit.events:
            lines = JsonLines(audit)
            defer.push_async_callback(lines.close)
            self._lifecycle.subscribe(lines.submit, *audit.events)
            self._view.audit = lines
        if settings.records.spans is not None:
            spans = Spans(otlp_exporter(settings.records.spans), node)
            defer.push_async_callback(spans.close)
            self._lifecycle.subscribe(spans.submit, "end")
            self._view.spans = spans
        children = self._view.children
        if (judge := self._judge) is not None:
            children.subscribe(lambda child, _: judge.count(child.tenant, getattr(child, "decisions", ())))
        self._inspectors.child = lambda flow, kind, record: children.add(flow.id, flow.tenant.name, kind, record)
        if settings.records.requests is not None:
            requests = JsonLines(settings.records.requests)
            defer.push_async_callback(requests.close)
            children.subscribe(lambda _, record: requests.submit(msgspec.Raw(record)))
        self._hooks.start()
        defer.callback(self._hooks.stop)
        await self._hooks.notify("startup")
        defer.push_async_callback(self._hooks.drain)
        defer.push_async_callback(self._hooks.notify, "shutdown")
        defer.callback(self._end_all)
        defer.push_async_callback(self._inspectors.drain, settings.timeouts.drain_s)
        self._open_ramps(plane)
        self._permission.review()
        self._tick()
        defer.callback(lambda: self._timer.cancel())  # the timer that is armed by then
        control = ControlServer(self._view, settings.control)  # last, so that its clients find everything open
        await control.start()
        defer.push_async_callback(control.stop)

    async def reload(self) -> None:
        """Reload the policy files. A mistake in them is logged, and nothing changes."""
        if self._judge is None:
            await self._hooks.notify("reload")
        else:
            with contextlib.suppress(DocumentError):  # the judge has logged it
                await self._judge.reload()

    async def stop(self) -> None:
        """Accept nothing new, end every flow with the reason `drain`, store the records, close everything."""
        if hasattr(self, "_view"):
            self._view.state = "draining"
            await self._hooks.notify("drain")
        await self._stack.aclose()

    def _open_bridges(self, namespace: PrivateNamespace) -> None:
        settings = self.settings.bridge
        for header_bytes in (0, HEADER_BYTES):
            bridge = Bridge(namespace, offload=header_bytes > 0, mtu=settings.mtu, backlog=settings.backlog)
            self._stack.callback(bridge.close, self._poller)
            pump = BridgePump(bridge.tun, header_bytes, bridge.paths)
            self._poller.watch(bridge.tun, IN, pump.ready, pump.crashed)
            self._bridges[header_bytes] = bridge
            self._pumps.append(pump)

    def _open_inspectors(self) -> None:
        """Prepare the inspectors. Their processes start with the first session that needs one."""
        settings, loop = self.settings, asyncio.get_running_loop()
        inspections = {name: tenant.inspection for name, tenant in settings.tenants.items()}
        authorities = Authorities(settings.state, inspections)
        for name, tenant in settings.tenants.items():
            if tenant.level in ("tls", "http") or tenant.inspection != Inspection():
                authorities.of(name)  # now, to report faults at start, and to let clients trust it in advance
        broker = Broker(self._poller, loop, authorities, inspections, settings)
        self._inspectors = Inspectors(settings.inspectors, self._poller, loop, broker)
        self._inspectors.serve(self._lifecycle)
        self._stack.callback(self._inspectors.close)

    def _make_plane(self) -> Plane:
        poller, lifecycle, timeouts = self._poller, self._lifecycle, self.settings.timeouts
        errors = IcmpErrors()
        dialer, inspectors = self._dialer, self._inspectors
        tcp = TcpPlane(poller, self._bridges, lifecycle, errors, timeouts, dialer, inspectors)
        for bridge in self._bridges.values():
            bridge.start(poller, tcp.accepted)
        udp_offload = self._bridges[HEADER_BYTES].udp_offload
        udp = DatagramPlane(open_session, poller, lifecycle, errors, timeouts, udp_offload)
        echo = DatagramPlane(EchoFlow, poller, lifecycle, errors, timeouts, udp_offload)
        openers: dict[str, Opener] = {"tcp": tcp, "udp": udp, "icmp": echo, "icmpv6": echo}
        forwarder = TunnelOffRamp(lifecycle, errors, timeouts, self._kernel)
        entrance = FlowSetup(lifecycle, errors, openers, forwarder)
        entrance.is_tcp_inspected = inspectors.inspected_origins.includes
        return Plane(entrance, errors, adopts_until=time.monotonic() + ADOPTION_S)

    def _load_policies(self) -> PolicyJudge | None:
        """The judge of all new flows; None if no policy is configured."""
        source = policy_files(self.settings)
        if source is None:
            return None
        tenants = self.tenants.values()

        def live() -> Iterator[Flow]:
            return chain.from_iterable(flows for tenant in tenants for flows in tenant.slices())

        state = source.state if self.settings.watch_policies else None
        before, check = partial(self._hooks.notify, "reload"), partial(check_body_hook, self._hooks.has)
        judge = PolicyJudge(source, self.tenants, live, before, state, check)
        self._permission.judge = judge
        judge.review_tunnels = self._permission.review
        return judge

    def _remember(self, flow_log: FlowLog, flow: Flow) -> None:
        """Record a flow that the kernel would continue if this process were killed, for the proxy that succeeds it."""
        flow_log.submit(self._lifecycle.snapshot(flow))

    def _open_kernel(self, plane: Plane, flow_log: FlowLog) -> None:
        """Start the kernel off-ramp, or fall back to sockets with a warning. ProxyError: an on-ramp needs it."""
        left_over = flow_log.left_over
        if self._kernel is None:
            KernelOffRamp(self.settings, self.tenants, self._poller).remove_leftovers()
            _end_left_over(flow_log, left_over)
            return
        try:
            obstacles = find_obstacles(self.settings)
            _end_left_over(flow_log, self._kernel.start(plane, left_over))
        except (OSError, ProxyError) as error:
            self._kernel.close()
            self._kernel = None
            if any(isinstance(ramp, InterfaceOnRamp) for ramp in self.settings.onramps):
                raise ProxyError(f"interface on-ramps need the kernel off-ramp: {error}") from error
            self.kernel_problem = str(error)
            log.warning("no kernel off-ramp, flows leave by sockets: %s", error)
        else:
            for obstacle in obstacles:
                if not obstacle.is_note:
                    log.warning("obstacle to the kernel off-ramp: %s", obstacle)

    def _open_ramps(self, plane: Plane) -> None:
        tuns = {bridge.offload: bridge.tun for bridge in self._bridges.values()}
        for settings in self.settings.onramps:
            if isinstance(settings, InterfaceOnRamp):
                continue  # opened by the kernel off-ramp
            if isinstance(settings, TunOnRamp):
                tenant = self.tenants[settings.tenant]
                device = TunRamp(settings, tenant, plane, self._poller, tuns)
                tenant.attach(device)
                continue
            if isinstance(settings, GueOnRamp):
                port = GueRamp(settings, self.tenants, plane, self._poller, tuns[False])
                self._ports.append(port)
                self._stack.callback(port.close)
                continue
            ramp = ConnectedRamp(
                settings,
                self.tenants,
                plane,
                self._poller,
                self._hooks,
                tuns,
                context_timeout_s=self.settings.timeouts.context_s,
                opened=self._tunnel_opened,
                closed=self._tunnel_closed,
                may_open=self._permission.refusal,
            )
            self._ramps.append(ramp)
            self._stack.callback(ramp.close)

    def _tunnel_opened(self, tunnel: Tunnel) -> None:
        log.info("%r is open: %s, MTU %d", tunnel, ", ".join(tunnel.context.addresses), tunnel.mtu)

    def _tunnel_closed(self, tunnel: Tunnel) -> None:
        """End the flows of a tunnel that the client has closed."""
        tunnel.tenant.detach(tunnel)
        tunnel.add_traffic_to_tenant()
        for flow in [flow for table in tunnel.flows.values() for flow in table.values()]:
            if flow.handler is not None:
                flow.handler.end("tunnel_closed")
        log.info("%r is closed", tunnel)
        self._hooks.notify_soon("tunnel_close", tunnel.context)

    def _end_all(self) -> None:
        if self._kernel is not None:
            self._kernel.count_all(self.tenants.values())
        for tenant in self.tenants.values():
            for flow in list(tenant.live()):
                flow.handler.end("drain")
                if not flow.is_recorded:
                    self._lifecycle.ended(flow)
            for carrier in list(tenant.carriers.values()):
                carrier.close()

    def _wake_flows(self) -> None:
        """Handle a slice of the flows whose timers have expired, and schedule the next slice."""
        if self._lifecycle.tick(time.monotonic()):
            asyncio.get_running_loop().call_later(SLICE_S, self._wake_flows)

    def _tick(self) -> None:
        """Drive everything that times out. Runs once per tick of the timer wheel."""
        now = time.monotonic()
        wheel = self._lifecycle.wheel
        self._timer = asyncio.get_running_loop().call_later(wheel.tick_s, self._tick)
        self._wake_flows()
        self._lifecycle.send_updates(self.tenants.values(), self.settings.records.update_every_s, now)
        self._lifecycle.admission.tick(now)
        if self._judge is not None:
            self._judge.tick(time.time())
        for tenant in self.tenants.values():
            tenant.expire_fragments(now)
        self._inspectors.tick(now)
        if self._kernel is not None:
            self._kernel.tick(now)


def _end_left_over(flow_log: FlowLog, records: Iterable[FlowRecord]) -> None:
    """Close the records of flows of a killed proxy that nothing carries now; how and when they ended is unknown."""
    for record in records:
        changed = {"event": "end", "final": True, "state": "closed", "close_reason": "unknown", "end": time.time_ns()}
        flow_log.submit(msgspec.structs.replace(record, **changed))


def policy_files(settings: Settings) -> FileSource | None:
    """The policy files in the settings; None: there are none."""
    of_tenants = [(name, path) for name, tenant in settings.tenants.items() for path in tenant.policies]
    return FileSource(settings.policies, of_tenants) if settings.policies or of_tenants else None


def _check_egress(settings: Settings) -> None:
    """Check the egress interfaces of tenants. ProxyError: the first one that does not exist."""
    known = {name for _, name in socket.if_nameindex()}
    for name, tenant in settings.tenants.items():
        if tenant.egress is not None and tenant.egress not in known:
            raise ProxyError(f"tenant '{name}': egress: no interface '{tenant.egress}'{suggest(tenant.egress, known)}")

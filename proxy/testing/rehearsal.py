"""The proxy without its edges: tenants, tunnels and sites in memory, its own event loop, and a simulated clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from functools import partial
from typing import Any, TypeVar

from proxy.context import TunnelContext, checked, decode_context
from proxy.device.memory import MemoryTunnel
from proxy.errors import DropReason
from proxy.flow.flow import Flow
from proxy.flow.handler import FlowHandler
from proxy.flow.record import CloseReason, FlowRecord
from proxy.flow.route_table import RouteTable
from proxy.flow.tenant import Carrier, Tenant
from proxy.hooks import HookRunner, Hooks
from proxy.offramps.tunnel import TunnelOffRamp
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.plane import Plane
from proxy.packet.routes import Hop
from proxy.settings.model import TenantSettings, Timeouts
from proxy.settings.sites import Route
from proxy.stream.admission import Judge
from proxy.stream.descriptors import Descriptors
from proxy.stream.flow_setup import FlowSetup
from proxy.stream.lifecycle import Lifecycle
from proxy.testing.exchange import Client
from proxy.verdict import Verdict
from proxy.wire.ip import IPPacket

INTERNET = "internet"
ADDRESSES = ("100.96.0.{}", "fd00:96::{:x}")

_Result = TypeVar("_Result")


class Refused(Exception):
    """A tunnel was refused for this reason."""


class Rehearsal:
    """The proxy as hooks and policies see it. `records` are all flow records so far, in order."""

    def __init__(
        self, hooks: Hooks[Any] | None = None, *, tenants: Iterable[str] = ("acme",), judge: Judge | None = None,
        sites: Mapping[str, Iterable[str]] | None = None,
    ) -> None:  # fmt: skip
        """`sites`: prefixes of each site, by name; all tenants have them. `judge`: a policy."""
        self.hooks = hooks or Hooks()
        self.records: list[FlowRecord] = []
        self.errors = IcmpErrors()
        self._loop = asyncio.new_event_loop()
        self._runner = HookRunner(self.hooks)
        self._lifecycle = Lifecycle("rehearsal", self._runner, Descriptors(1 << 20))
        self._lifecycle.admission.judge = judge
        self._lifecycle.subscribe(self.records.append)
        stream_opener = StreamOpener(self._lifecycle)
        openers = dict.fromkeys(("tcp", "udp", "icmp", "icmpv6"), stream_opener)
        forwarder = TunnelOffRamp(self._lifecycle, self.errors, Timeouts())
        self.opened: list[Flow] = []
        flow_setup = ObservedFlowSetup(self.opened, self._lifecycle, self.errors, openers, forwarder)
        self._plane = Plane(flow_setup, self.errors)
        self._ahead = 0.0
        self._count = 0
        site_prefixes = {INTERNET: ("0.0.0.0/0", "::/0"), **(sites or {})}
        self.tenants = {name: Tenant(name, TenantSettings()) for name in tenants}
        for tenant in self.tenants.values():
            routes = [
                Route(prefix=prefix, via=f"site:{site}")
                for site, prefixes in site_prefixes.items()
                for prefix in prefixes
            ]
            tenant.networks["default"].routes = RouteTable(routes)
            for site, prefixes in site_prefixes.items():
                MemoryTunnel(tenant, (), prefixes=prefixes, tunnel_id=site, site=site)

    def __enter__(self) -> Rehearsal:
        self.run(self._runner.notify("startup"))
        return self

    def __exit__(self, *_: object) -> None:
        self.call(self._end_all)
        self.run(self._runner.notify("drain"))
        self.run(self._runner.notify("shutdown"))
        self._loop.close()

    def tunnel(self, context: bytes | TunnelContext[Any] | None = None, **fields: Any) -> Client:
        """A client introduces itself: with a datagram as it stands, or with the fields of a TunnelContext. Without
        addresses it gets some. Raises Refused with the reason, or msgspec.ValidationError."""
        if isinstance(context, bytes):
            made = self.run(self._runner.fetch("packet_context", context, TunnelContext))
            _refuse(made)
            context = checked(made) if isinstance(made, TunnelContext) else decode_context(context)
        if context is None:
            self._count += 1
            addresses = [pattern.format(self._count) for pattern in ADDRESSES]
            context = TunnelContext(**{"tenant": next(iter(self.tenants)), "addresses": addresses, **fields})
        if context.tenant not in self.tenants:
            raise Refused(f"unknown tenant {context.tenant!r}")
        _refuse(self.run(self._runner.ask("tunnel_open", context)))
        tunnel = MemoryTunnel(self.tenants[context.tenant], context.addresses, tunnel_id=f"client-{self._count}")
        tunnel.user, tunnel.device, tunnel.extension = context.user, context.device, context.extension
        return Client(self, tunnel, context.addresses)

    def hang_up(self, client: Client) -> None:
        """Close the client's tunnel: its flows end, and the hook `tunnel_close` is called."""
        tunnel = client.tunnel
        tunnel.tenant.detach(tunnel)
        for flow in [flow for flow in tunnel.tenant.live() if flow.carrier is tunnel]:
            self.call(partial(flow.handler.end, "tunnel_closed"))
        context = TunnelContext(
            tenant=tunnel.tenant.name, addresses=["0.0.0.0"], user=tunnel.user, device=tunnel.device,
            extension=tunnel.extension,
        )  # fmt: skip
        self.run(self._runner.notify("tunnel_close", context))

    def advance(self, seconds: float) -> None:
        """Advance the clock by `seconds`: idle flows and verdicts may expire."""
        self._ahead += seconds
        now = time.monotonic() + self._ahead
        self.call(lambda: self._lifecycle.admission.tick(now))
        self.call(lambda: self._lifecycle.tick(now))
        self.call(lambda: self._lifecycle.send_updates(self.tenants.values(), 1.0, now))

    def run(self, coroutine: Coroutine[Any, Any, _Result]) -> _Result:
        """Run a coroutine of the test on the proxy's loop, such as the start of a server that a hook will query."""
        return self._loop.run_until_complete(coroutine)

    def call(self, function: Callable[[], _Result]) -> _Result:
        """The result of `function`, once all hooks that it triggered have answered."""

        async def run() -> _Result:
            result = function()
            await self._runner.drain()
            return result

        return self.run(run())

    def give(self, carrier: MemoryTunnel, packet: bytes) -> DropReason | None:
        """Deliver a packet from a tunnel and wait for all hooks. Returns the reason if it was not forwarded."""
        buffer = bytearray(packet)
        return self.call(lambda: self._plane.handle(carrier, buffer, len(buffer), time.monotonic(), time.time_ns()))

    def snapshot(self, flow: Flow) -> FlowRecord:
        """The flow's current record."""
        return self._lifecycle.snapshot(flow)

    def _end_all(self) -> None:
        for tenant in self.tenants.values():
            for flow in list(tenant.live()):
                flow.handler.end("drain")
                if not flow.is_recorded:
                    self._lifecycle.ended(flow)


class ObservedFlowSetup(FlowSetup):
    """An admission that remembers the flows that it opened."""

    def __init__(self, opened: list[Flow], *parts: Any) -> None:
        super().__init__(*parts)
        self._opened = opened

    def open(self, flow: Flow, hop: Hop, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        self._opened.append(flow)
        return super().open(flow, hop, buffer, packet)


class StreamOpener:
    """Opens flows that end in the proxy: connected at once, without an origin."""

    def __init__(self, lifecycle: Lifecycle) -> None:
        self._lifecycle = lifecycle

    def open(self, flow: Flow, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        """Establish the flow."""
        flow.level, flow.offramp = "stream", "tunnel" if flow.egress else "socket"
        flow.origin = flow.target_text
        self._lifecycle.begin(flow, StreamFlow(self._lifecycle, flow), lambda: self._lifecycle.connected(flow))
        return None


class StreamFlow(FlowHandler):
    """A flow that ends in the proxy; it counts the client's packets."""

    def __init__(self, lifecycle: Lifecycle, flow: Flow) -> None:
        self._lifecycle, self._flow = lifecycle, flow

    def packet(self, carrier: Carrier, buffer: bytearray, packet: IPPacket) -> DropReason | None:
        self._flow.client_path.packets += 1
        self._flow.client_path.octets += packet.end - packet.start
        return None

    def expired(self, now: float) -> None:
        """Do nothing: it has no timer."""

    def end(self, reason: CloseReason) -> None:
        """The flow has ended."""
        if self._flow.close(reason, time.time_ns()):
            self._lifecycle.ended(self._flow)
            self._lifecycle.removed(self._flow)


def _refuse(answer: object) -> None:
    if isinstance(answer, str):
        raise Refused(answer)
    if isinstance(answer, Verdict) and answer.is_denial:
        raise Refused(answer.reason or "refused")

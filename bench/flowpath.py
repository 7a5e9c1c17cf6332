"""Flows from first packet to end record, in memory: two tunnels, the packet plane between them, the flow log."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from pathlib import Path
from typing import Any

from proxy.device.memory import MemoryTunnel
from proxy.flow.flow import Flow
from proxy.flow.route_table import RouteTable
from proxy.flow.tenant import Tenant
from proxy.hooks import HookRunner, Hooks
from proxy.offramps.tunnel import TunnelOffRamp
from proxy.packet.icmp_errors import IcmpErrors
from proxy.packet.plane import Plane
from proxy.policy.judge import PolicyJudge
from proxy.settings import Records, Route, TenantSettings
from proxy.settings.model import Limits, Timeouts
from proxy.stream.descriptors import Descriptors
from proxy.stream.flow_setup import FlowSetup
from proxy.stream.lifecycle import Lifecycle
from proxy.telemetry.flowlog import FlowLog
from proxy.wire import ip, udp

CLIENT, ORIGIN = bytes((100, 96, 0, 2)), bytes((10, 50, 0, 10))
BATCH = 500
FADED_S = 200.0  # long after the last packets of an ended flow


class FlowPath(contextlib.AbstractContextManager["FlowPath"]):
    """A client's tunnel, a tunnel to the origin, and the parts that decide and record the flows between them."""

    def __init__(self, hooks: Hooks[Any] | None = None) -> None:
        limits = Limits(flows=1_000_000, new_flows_per_s=1_000_000_000)
        self.tenant = Tenant("acme", TenantSettings(limits=limits))
        self.client = MemoryTunnel(self.tenant, ["100.96.0.2"])
        self.exit = MemoryTunnel(self.tenant, ["10.50.0.10"], tunnel_id="memory-2")
        self.client.user = self.exit.user = "bob@acme.example"
        self.tenant.networks["default"].routes = RouteTable([Route(prefix="10.50.0.0/24", via="clients")])
        self._hooks = HookRunner(hooks or Hooks())
        self.lifecycle = Lifecycle("bench", self._hooks, Descriptors(1_000))
        errors = IcmpErrors()
        forwarder = TunnelOffRamp(self.lifecycle, errors, Timeouts())
        self._plane = Plane(FlowSetup(self.lifecycle, errors, {}, forwarder), errors)
        self._directory = tempfile.TemporaryDirectory()
        self._log = FlowLog(Records(path=str(Path(self._directory.name, "flows.db"))))
        self.lifecycle.subscribe(self._log.submit, "end")
        self._ahead = 0.0

    def __exit__(self, *exception: object) -> None:
        asyncio.run(self._log.close())
        self._directory.cleanup()

    def flow(self) -> Flow:
        """A new flow."""
        self._begin(range(1))
        return next(iter(self.tenant.live()))

    def flows_per_s(self, judge: PolicyJudge | None, count: int) -> float:
        """The number of flows that start and end per second of processor time, with their records."""
        self.lifecycle.admission.judge = judge
        self._end()
        began = time.process_time()
        for start in range(0, count, BATCH):
            self._begin(range(start, start + BATCH))
            self._end()
        took = time.process_time() - began
        self.lifecycle.admission.judge = None
        return count / took

    async def seconds_with_hooks(self, count: int) -> float:
        """Seconds of processor time for a flow to start and end, each hook answered before the next step."""
        self._end()
        began = time.process_time()
        for start in range(0, count, BATCH):
            self._begin(range(start, start + BATCH))
            await self._hooks.drain()
            self._end()
            await self._hooks.drain()
        return (time.process_time() - began) / count

    def _begin(self, numbers: range) -> None:
        handle, client = self._plane.handle, self.client
        for number in numbers:
            buffer = bytearray(_datagram(number % 60_000))
            reason = handle(client, buffer, len(buffer), time.monotonic(), time.time_ns())
            assert reason is None, reason

    def _end(self) -> None:
        for flow in list(self.tenant.live()):
            if not flow.is_ended:
                flow.handler.end("client_idle_timeout")
        self._ahead += FADED_S
        while self.lifecycle.tick(time.monotonic() + self._ahead):
            pass
        self.exit.sent.clear()


def _datagram(number: int) -> bytes:
    """A datagram of its own flow."""
    datagram = udp.datagram(CLIENT + ORIGIN, 1024 + number, 1_500, b"x" * 32)
    return ip.ipv4_header(CLIENT, ORIGIN, ip.UDP, len(datagram)) + datagram

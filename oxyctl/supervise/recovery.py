"""Waits until a restarted node is ready and the other ends of its tunnels are connected again."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence

from oxyctl.errors import OxyctlError
from oxyctl.plan.serving import clients_of, is_cut, sites_of
from oxyctl.plan.steps import PlannedNode, SiteOpen
from oxyctl.supervise.lab import RunningLab
from oxyctl.supervise.requests import Notify

AGENTS, SITES = "agents", "sites"
PROXY_EVENTS = ("accepted", "refused")  # events of a client's agent that depend on the proxy


class Recovery:
    """Waits for the readiness of nodes. `is_running`: whether all programs of a node are running."""

    def __init__(self, lab: RunningLab, is_running: Callable[[PlannedNode], bool]) -> None:
        self._lab, self._is_running = lab, is_running
        self._waits: dict[str, asyncio.Future[None]] = {}

    async def until_all_ready(
        self, nodes: Sequence[PlannedNode], started: Sequence[PlannedNode], deadline: float, notify: Notify
    ) -> None:
        """Return when `nodes`, and the clients and sites of proxies among them, are ready.

        `notify` gets an event for each of the `started`.

        OxyctlError: one of them is not ready in time, never will be, or was stopped meanwhile.
        """
        waits = [asyncio.create_task(self._wait_and_notify(node, deadline, notify, "ready")) for node in started]
        try:
            await asyncio.gather(*waits)
            for proxy in [node for node in nodes if node.control is not None]:
                if proxy in started:
                    await self.renew_far_ends(proxy)
                for node in self._other_ends(proxy):
                    await self._wait_and_notify(node, deadline, notify if proxy in started else _ignore, "back")
        finally:
            for wait in waits:
                wait.cancel()

    async def _wait_and_notify(self, node: PlannedNode, deadline: float, notify: Notify, event: str) -> None:
        await self.until_ready(node, deadline)
        notify(event, node=node.name, kind=node.kind)

    async def until_ready(self, node: PlannedNode, deadline: float) -> None:
        """Return when `node` is ready. OxyctlError: not in time, it has failed, or was stopped meanwhile."""
        interrupted = self._waits.setdefault(node.name, asyncio.get_running_loop().create_future())
        ready = asyncio.create_task(self._lab.until_ready(node, deadline))
        futures: set[asyncio.Future[None]] = {ready, interrupted}
        try:
            await asyncio.wait(futures, return_when=asyncio.FIRST_COMPLETED)
            if not ready.done():
                raise OxyctlError(f"node '{node.name}' ({node.kind}) was stopped before it was ready")
            ready.result()
        finally:
            ready.cancel()

    def interrupt(self, node: str) -> None:
        """End waits for `node`, which is being stopped."""
        wait = self._waits.pop(node, None)
        if wait is not None and not wait.done():
            wait.set_result(None)

    def lose_clients(self, proxy: PlannedNode) -> None:
        """Forget the state of tunnels to a proxy that has ended: the new one must accept them again."""
        program = self._lab.processes.programs.get(AGENTS)
        if proxy.control is not None and program is not None:
            clients = clients_of(self._lab.plan, proxy.name)
            program.reports[:] = [
                r for r in program.reports if r.get("node") not in clients or r.get("event") not in PROXY_EVENTS
            ]

    async def renew_far_ends(self, proxy: PlannedNode) -> None:
        """Have the sites of a restarted proxy probe their tunnels from scratch."""
        program = self._lab.processes.programs.get(SITES)
        sites = sites_of(self._lab.plan, proxy.name) if proxy.control is not None else set()
        if not sites or program is None or not program.is_running:
            return
        async with self._lab.change_lock:
            program.reports[:] = [
                r for r in program.reports if r.get("node") not in sites or r.get("event") != "health"
            ]
            self._lab.shared.far_ends.update(sites)
            await self._lab.shared.refresh(SITES, self._lab.plan)

    def _other_ends(self, proxy: PlannedNode) -> list[PlannedNode]:
        """The nodes that must connect to `proxy` again."""
        plan = self._lab.plan
        names = clients_of(plan, proxy.name) | {site for site in sites_of(plan, proxy.name) if not is_cut(plan, site)}
        return [node for node in plan.nodes if node.name in names and self._is_awaited(node)]

    def _is_awaited(self, node: PlannedNode) -> bool:
        """Whether the node has a tunnel that can show that it has recovered: with a program and a probe."""
        can_show = not isinstance(node.probe, SiteOpen) or node.probe.is_probed
        return can_show and node.process in (AGENTS, SITES) and self._is_running(node)


def _ignore(event: str, **details: object) -> None:
    """Ignore an event."""

"""`apply` inside the lab: carries out a diff, and undoes it if that fails."""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import os
import signal
from collections.abc import Awaitable, Callable, Collection
from pathlib import Path

import msgspec

from oxyctl.build.network import build, configure
from oxyctl.errors import OxyctlError
from oxyctl.net import netlink, shaping
from oxyctl.net.namespaces import Namespaces
from oxyctl.plan.diff import SHARED, Diff, compare
from oxyctl.plan.steps import File, Link, Namespace, Plan, PlannedNode
from oxyctl.supervise.links import Links
from oxyctl.supervise.processes import Processes
from oxyctl.supervise.shared_programs import SharedPrograms

GRACE_S = 3.0
UntilReady = Callable[[PlannedNode], Awaitable[None]]


class Transition:
    """Changes a running lab from one plan to another."""

    def __init__(
        self,
        processes: Processes,
        namespaces: Namespaces,
        links: Links,
        shared: SharedPrograms,
        until_ready: UntilReady,
    ) -> None:
        self._processes, self._namespaces, self._links, self._shared = processes, namespaces, links, shared
        self._until_ready = until_ready

    async def run(self, diff: Diff) -> None:
        """Carry out `diff`. OxyctlError: it failed; the message says whether everything was undone."""
        try:
            await self._run(diff)
        except (OxyctlError, OSError) as error:
            problem = await self._undo(diff)
            raise OxyctlError(f"{error}\n{problem or 'all changes were undone'}") from None

    async def _undo(self, diff: Diff) -> str | None:
        """Restore the previous plan from any state in between. Returns the problem if that fails."""
        try:
            await self._run(compare(diff.wanted, diff.running))
        except (OxyctlError, OSError) as error:
            return f"and the changes could not be undone: {error}"
        return None

    async def _run(self, diff: Diff) -> None:
        old, new = diff.running, diff.wanted
        await self._remove(old, diff)
        await self._create(new, diff)
        self._write_files(old, new)
        for name in diff.programs:
            await self._restart(name, new)
        await self._shared.reconfigure((old, diff.removed), (new, frozenset()))
        await asyncio.gather(*(self._until_ready(node) for node in new.nodes if node.name in diff.added))
        for link in diff.links_changed:
            await self._links.set(link)

    async def _remove(self, plan: Plan, diff: Diff) -> None:
        """Remove programs first, then links, namespaces, routes and bridges. Missing ones are ignored."""
        await self._stop([process.name for process in plan.processes if process.node in diff.removed])
        await self._shared.reconfigure((plan, frozenset()), (plan, diff.removed))
        for link in plan.links:
            if link.node in diff.removed or link in diff.links_removed:
                await self._remove_link(link)
        for node in diff.removed:
            self._end_processes_in(node)
            self._namespaces.remove(node)
        for route in diff.routes_removed:
            request = netlink.add_route(ipaddress.ip_network(route.to), route.index, route.via, route.metric)
            with self._namespaces.inside(route.node):
                _run_leniently(shaping.delete_route(request))
        kept = {bridge.network for bridge in diff.wanted.bridges}
        for bridge in plan.bridges:
            if bridge.network not in kept:
                _run_leniently(shaping.remove_link(bridge.index))

    async def _remove_link(self, link: Link) -> None:
        with contextlib.suppress(OSError, OxyctlError):
            await self._links.forget(link)
        _run_leniently(shaping.remove_link(link.port_index))

    async def _create(self, plan: Plan, diff: Diff) -> None:
        known = {bridge.network for bridge in diff.running.bridges}
        links = [link for link in plan.links if link.node in diff.added or link in diff.links_added]
        part = msgspec.structs.replace(
            plan,
            namespaces=[namespace for namespace in plan.namespaces if namespace.node in diff.added],
            bridges=[bridge for bridge in plan.bridges if bridge.network not in known],
            links=links,
            routes=[route for route in plan.routes if route.node in diff.added],
            devices=[device for device in plan.devices if device.node in diff.added],
            rules=[rule for rule in plan.rules if rule.node in diff.added],
        )
        _write([file for file in plan.files if any(f"/nodes/{node}/" in file.path for node in diff.added)])
        for _ in build(part, self._namespaces):
            await asyncio.sleep(0)
        sysctls = {namespace.node: namespace.sysctls for namespace in plan.namespaces}
        for link in diff.links_added:
            configure(Namespace(node=link.node, sysctls=sysctls[link.node]), [link], self._namespaces)
        for route in diff.routes_added:
            configure(Namespace(node=route.node, sysctls={}), [], self._namespaces, [route])
        for link in links:
            if link.impairment.is_shaped or link.impairment.down:
                await self._links.set(link)
        for process in plan.processes:
            if process.node in diff.added:
                self._processes.start(process)

    def _write_files(self, old: Plan, new: Plan) -> None:
        """Write changed files in place, since some are bind-mounted. Those of shared programs are written later."""
        shared = {f"{program}.json" for program in SHARED}
        texts = {file.path: file.text for file in old.files}
        files = [file for file in new.files if Path(file.path).name not in shared]
        _write([file for file in files if texts.get(file.path) != file.text])

    async def _restart(self, name: str, plan: Plan) -> None:
        await self._stop([name])
        for process in plan.processes:
            if process.name == name:
                self._processes.start(process)

    async def _stop(self, names: Collection[str]) -> None:
        """End programs, if necessary by SIGKILL."""
        programs = [program for name in names if (program := self._processes.programs.get(name)) is not None]
        await self._processes.end(programs, GRACE_S)
        for program in programs:
            self._processes.programs.pop(program.name, None)

    def _end_processes_in(self, node: str) -> None:
        """Kill other processes in the namespace of `node`: shells, programs of `lab exec`."""
        path = self._namespaces.path(node)
        if not path.exists() or os.readlink("/proc/self") != str(os.getpid()):  # /proc shows PIDs outside
            return
        inode = path.stat().st_ino
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                if os.stat(entry / "ns" / "net").st_ino == inode and (pid := int(entry.name)) != os.getpid():
                    os.kill(pid, signal.SIGKILL)


def _write(files: list[File]) -> None:
    for file in files:
        path = Path(file.path)
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        path.write_text(file.text)


def _run_leniently(request: netlink.Request) -> None:
    with contextlib.suppress(OSError):
        netlink.run([request])

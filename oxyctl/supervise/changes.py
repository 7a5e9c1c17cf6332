"""Changes of a running lab, one at a time: impaired links, or another plan."""

from __future__ import annotations

import json
import time
from pathlib import Path

import msgspec

from oxyctl.errors import NothingMatched, UsageError
from oxyctl.net.impairment import Impairment
from oxyctl.plan.diff import Change, Diff, compare, entries, tunnel_impairment
from oxyctl.plan.steps import Plan, PlannedNode
from oxyctl.supervise.impairment_relay import link_name
from oxyctl.supervise.lab import RunningLab
from oxyctl.supervise.node_lifecycle import NodeLifecycle
from oxyctl.supervise.requests import Apply, Impair
from oxyctl.supervise.state import write_atomically
from oxyctl.supervise.transition import Transition
from proxy.settings import suggest

IMPAIR_S = 20.0


class Changes:
    """Changes a running lab and its plan."""

    def __init__(self, lab: RunningLab, nodes: NodeLifecycle) -> None:
        self._lab, self._nodes = lab, nodes
        self._transition = Transition(lab.processes, lab.namespaces, lab.links, lab.shared, self._until_ready)

    async def impair(self, request: Impair) -> list[Change]:
        """Impair links and return the changes. NothingMatched: no such link. UsageError: invalid. OxyctlError."""
        async with self._lab.change_lock:
            wanted = impaired(self._lab.plan, request)
            return await self._change(compare(self._lab.plan, wanted), IMPAIR_S)

    async def apply(self, request: Apply) -> list[Change]:
        """Change to another plan; return the changes. UsageError: not possible. OxyctlError: failed, and undone."""
        async with self._lab.change_lock:
            return await self._change(compare(self._lab.plan, request.plan), request.timeout_s)

    async def _change(self, diff: Diff, timeout_s: float) -> list[Change]:
        lab = self._lab
        lab.deadline = time.monotonic() + timeout_s
        if not diff.is_empty:
            lab.ready -= diff.removed
            self._nodes.forget(diff.removed)
            await self._transition.run(diff)
        lab.plan = diff.wanted
        lab.trust.follow()
        content = msgspec.json.format(msgspec.json.encode(diff.wanted), indent=1)
        write_atomically(lab.directory.path / "plan.json", content)
        return diff.changes

    async def _until_ready(self, node: PlannedNode) -> None:
        await self._lab.until_ready(node, self._lab.deadline)


def impaired(plan: Plan, request: Impair) -> Plan:
    """`plan` with the requested impairment of a link, a tunnel, or all links of a network. UsageError: invalid."""
    names = matching_links(plan, request.link)
    try:
        links = [
            msgspec.structs.replace(link, impairment=_changed(link.impairment, request))
            if link_name(link) in names
            else link
            for link in plan.links
        ]
        return msgspec.structs.replace(_with_tunnels(plan, names, request), links=links)
    except ValueError as error:
        raise UsageError(str(error)) from None


def matching_links(plan: Plan, text: str) -> set[str]:
    """The names of the links for NODE:NETWORK, NODE:INTERFACE, NODE:tunnel or NETWORK. NothingMatched: none."""
    aliases: dict[str, set[str]] = {}
    for link in plan.links:
        for alias in (link_name(link), f"{link.node}:{link.interface}", link.network):
            aliases.setdefault(alias, set()).add(link_name(link))
    for node, entry in entries(plan, "agents").items():
        for alias in (f"{node}:tunnel", f"{node}:{entry['interface']}"):
            aliases.setdefault(alias, set()).add(f"{node}:tunnel")
    if text not in aliases:
        raise NothingMatched(f"lab '{plan.lab}' has no link '{text}'{suggest(text, aliases)}")
    return aliases[text]


def _changed(before: Impairment, request: Impair) -> Impairment:
    return request.settings.over(Impairment() if request.clear else before)


def _with_tunnels(plan: Plan, names: set[str], request: Impair) -> Plan:
    files = []
    for file in plan.files:
        if Path(file.path).name == "agents.json":
            content = json.loads(file.text)
            for entry in content["clients"]:
                if f"{entry['node']}:tunnel" in names:
                    entry["impairment"] = msgspec.to_builtins(_changed(tunnel_impairment(entry), request))
            file = msgspec.structs.replace(file, text=json.dumps(content, indent=1))
        files.append(file)
    return msgspec.structs.replace(plan, files=files)

"""Compares two plans of a lab: what to remove, add or change to turn the running one into the other. Pure.

Bridges and ports keep the numbers of the running plan; new ones get free numbers. A node whose program, files, settings
or namespace differ is replaced as a whole; a node of which only links differ keeps its program.
"""

from __future__ import annotations

import dataclasses
import json
from pathlib import PurePath
from typing import Any, Literal

import msgspec

from oxyctl.errors import UsageError
from oxyctl.net.impairment import Impairment
from oxyctl.plan.steps import Link, Plan, PlannedNode, Route, Running

# programs that reload their configuration; the name of the list in their file
SHARED = {"agents": "clients", "services": "nodes", "sites": "tunnels", "names": "nodes"}
COMPARABLE_FIELDS = {
    "lab",
    "source",
    "namespaces",
    "bridges",
    "links",
    "routes",
    "files",
    "processes",
    "nodes",
    "devices",
    "rules",
    "tunnels",
    "authority",
    "bundles",
}
FIRST_BRIDGE, FIRST_PORT = 1000, 10_000


class Change(msgspec.Struct, kw_only=True, frozen=True):
    """One line of the list of changes that is shown."""

    action: Literal["add", "remove", "change"]
    what: Literal["network", "node", "link", "tunnel", "routes", "program"]
    name: str
    detail: str = ""


@dataclasses.dataclass(frozen=True)
class Diff:
    """The changes that turn `running` into `wanted`; nodes by name."""

    running: Plan
    wanted: Plan  # with the numbers of the running plan
    changes: list[Change]
    removed: frozenset[str]  # nodes, including replaced ones
    added: frozenset[str]
    links_removed: list[Link]  # of nodes that are kept
    links_added: list[Link]
    links_changed: list[Link]  # only their impairments
    routes_removed: list[Route]
    routes_added: list[Route]
    programs: list[str]  # shared ones that must be restarted

    @property
    def is_empty(self) -> bool:
        """Whether the plans are equal: nothing has to be done."""
        return not self.changes


def compare(running: Plan, wanted: Plan) -> Diff:
    """The changes that turn `running` into `wanted`. UsageError: impossible while the lab runs."""
    _check_possible(running, wanted)
    wanted = renumber(running, wanted)
    before, after = _parts(running), _parts(wanted)
    replaced = {name: why for name in before.keys() & after.keys() if (why := _reasons(before[name], after[name]))}
    kept = (before.keys() & after.keys()) - replaced.keys()
    old, new = _links(running), _links(wanted)
    changed = [
        link for key, link in new.items() if key[0] in kept and key in old and _only_impairments_differ(old[key], link)
    ]
    changed_keys = {(link.node, link.network) for link in changed}
    removed = [link for key, link in old.items() if key[0] in kept and key not in changed_keys and new.get(key) != link]
    added = [link for key, link in new.items() if key[0] in kept and key not in changed_keys and old.get(key) != link]
    programs = _programs_to_restart(running, wanted)
    routes_removed, routes_added = _routes(running, wanted, kept, {(link.node, link.index) for link in added})
    changes = [
        *_network_changes(running, wanted),
        *_node_changes(before, after, replaced),
        *_policy_changes(running, wanted, kept),
        *_link_changes(old, removed, added, changed),
        *_tunnel_changes(before, after, kept),
        *(
            Change(action="change", what="routes", name=name)
            for name in sorted({r.node for r in routes_added + routes_removed})
        ),
        *(Change(action="change", what="program", name=name, detail="restarted") for name in programs),
    ]
    return Diff(
        running=running,
        wanted=wanted,
        changes=changes,
        removed=frozenset((before.keys() - after.keys()) | replaced.keys()),
        added=frozenset((after.keys() - before.keys()) | replaced.keys()),
        links_removed=removed,
        links_added=added,
        links_changed=changed,
        routes_removed=routes_removed,
        routes_added=routes_added,
        programs=programs,
    )


def is_same(running: Plan, wanted: Plan) -> bool:
    """Whether the plans differ at most in their numbers."""
    try:
        return compare(running, wanted).is_empty
    except UsageError:
        return False


def renumber(running: Plan, wanted: Plan) -> Plan:
    """`wanted` with the numbers that its networks and links have in `running`; new ones get free numbers."""
    names = {bridge.network: bridge.index for bridge in running.bridges}
    free = (number for number in range(FIRST_BRIDGE, FIRST_PORT) if number not in names.values())
    indexes = {bridge.network: names.get(bridge.network) or next(free) for bridge in wanted.bridges}
    replace = msgspec.structs.replace
    bridges = [
        replace(bridge, index=(index := indexes[bridge.network]), name=f"br{index - FIRST_BRIDGE}")
        for bridge in wanted.bridges
    ]
    ports = {key: link.port_index for key, link in _links(running).items()}
    free_ports = (number for number in range(FIRST_PORT, 2 * FIRST_PORT) if number not in ports.values())
    links = []
    for key, link in _links(wanted).items():
        port = ports.get(key) or next(free_ports)
        links.append(
            replace(link, port_index=port, port=f"veth{port - FIRST_PORT}", bridge_index=indexes[link.network])
        )
    return replace(wanted, bridges=bridges, links=links)


def entries(plan: Plan, program: str) -> dict[str, dict[str, Any]]:
    """The entry of each node in the configuration of the shared `program`."""
    for file in plan.files:
        if PurePath(file.path).name == f"{program}.json":
            listed = json.loads(file.text)[SHARED[program]]
            return {str(entry.get("node") or entry.get("name")): entry for entry in listed}
    return {}


def tunnel_ends(plan: Plan, site: str) -> list[dict[str, Any]]:
    """The entries for the tunnel of `site` in the configuration of the program `sites`: one for each end."""
    for file in plan.files:
        if PurePath(file.path).name == "sites.json":
            return [entry for entry in json.loads(file.text)[SHARED["sites"]] if entry["node"] == site]
    return []


def tunnel_impairment(entry: dict[str, Any]) -> Impairment:
    """The impairment in a client's entry."""
    return msgspec.convert(entry.get("impairment", {}), Impairment)


def _check_possible(running: Plan, wanted: Plan) -> None:
    if running.lab != wanted.lab:
        raise UsageError(f"lab '{running.lab}' cannot be changed into '{wanted.lab}': name the lab with --lab")
    for name in set(wanted.__struct_fields__) - COMPARABLE_FIELDS:
        if getattr(running, name) != getattr(wanted, name):
            raise UsageError(
                f"{name} of a lab cannot be changed while it runs: run `oxyctl lab down {running.lab}` first"
            )


def _links(plan: Plan) -> dict[tuple[str, str], Link]:
    return {(link.node, link.network): link for link in plan.links}


def _only_impairments_differ(old: Link, new: Link) -> bool:
    return old != new and msgspec.structs.replace(old, impairment=new.impairment) == new


def _parts(plan: Plan) -> dict[str, dict[str, Any]]:
    """By node, everything that makes a difference except its links and what follows from them."""
    shared = {program: entries(plan, program) for program in ("agents", "services")}
    resolved = entries(plan, "names")
    parts: dict[str, dict[str, Any]] = {}
    for node in plan.nodes:
        agent = dict(shared["agents"].get(node.name, {}))
        service = {key: value for key, value in shared["services"].get(node.name, {}).items() if key != "addresses"}
        parts[node.name] = {
            "kind": node.kind,
            "namespace": [(n.files, n.bundle) for n in plan.namespaces if n.node == node.name],
            "sysctls": _sysctls(plan, node.name),
            "program": [each for each in plan.processes if node.name in (each.node, each.name)],
            "files": sorted((f.path, f.text) for f in plan.files if _is_below(f.path, node.name)),
            "tunnel": agent.pop("impairment", None),
            "client": agent,
            "services": service,
            "readiness": _probe(node),
            "devices": [device for device in plan.devices if device.node == node.name],
            "rules": [rule for rule in plan.rules if rule.node == node.name],
            "tunnel's ends": tunnel_ends(plan, node.name),
            "resolver": node.name in resolved,
        }
    return parts


def _is_below(path: str, node: str) -> bool:
    """Whether a file is in the directory of `node`: RUN/nodes/NODE/..."""
    parts = PurePath(path).parts
    return any(parts[i : i + 2] == ("nodes", node) for i in range(len(parts) - 2))


def _sysctls(plan: Plan, node: str) -> dict[str, list[str]]:
    """The sysctls of the node itself, without rp_filter, which depends on the number of links."""
    named = [namespace.sysctls for namespace in plan.namespaces if namespace.node == node]
    return {key: value for each in named for key, value in each.items() if not key.endswith("/rp_filter")}


def _probe(node: PlannedNode) -> object:
    """The environment and the probe of a node, without its addresses, which follow from its links."""
    if isinstance(node.probe, Running):
        return [node.environment]
    probe = msgspec.to_builtins(node.probe)
    return [node.environment, {key: value for key, value in probe.items() if key != "addresses"}]


def _routes(
    running: Plan, wanted: Plan, kept: set[str], renewed: set[tuple[str, int]]
) -> tuple[list[Route], list[Route]]:
    """The removed and the added routes of nodes that are kept. Routes through a renewed link are added again."""
    old = [route for route in running.routes if route.node in kept]
    new = [route for route in wanted.routes if route.node in kept]
    removed = [route for route in old if route not in new]
    return removed, [route for route in new if route not in old or (route.node, route.index) in renewed]


def _reasons(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """The parts of a node that differ, so that it must be replaced; empty: it is kept."""
    differing = [part for part in before if part != "tunnel" and before[part] != after[part]]
    return [_describe_files(before[part], after[part]) if part == "files" else part for part in differing]


def _describe_files(before: list[tuple[str, str]], after: list[tuple[str, str]]) -> str:
    names = sorted({PurePath(path).name for path, _ in set(before) ^ set(after)})
    return f"files ({', '.join(names)})"


def _programs_to_restart(running: Plan, wanted: Plan) -> list[str]:
    """Shared programs without reload whose command, or a file named in it, has changed."""
    names = {node.name for node in [*running.nodes, *wanted.nodes]} | SHARED.keys()
    old = {process.name: process for process in running.processes if process.name not in names}
    texts = {file.path: file.text for file in running.files}
    stale = {file.path for file in wanted.files if texts.get(file.path) != file.text}
    new = {process.name: process for process in wanted.processes if process.name not in names and not process.node}
    changed = [name for name, process in new.items() if old.get(name) != process or stale & set(process.command)]
    return [*changed, *(name for name, process in old.items() if name not in new and not process.node)]


def _network_changes(running: Plan, wanted: Plan) -> list[Change]:
    before, after = ([bridge.network for bridge in plan.bridges] for plan in (running, wanted))
    return [
        *(Change(action="remove", what="network", name=name) for name in before if name not in after),
        *(Change(action="add", what="network", name=name) for name in after if name not in before),
    ]


def _node_changes(
    before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], replaced: dict[str, list[str]]
) -> list[Change]:
    removed = [name for name in before if name not in after]
    return [
        *(Change(action="remove", what="node", name=name, detail=before[name]["kind"]) for name in removed),
        *(Change(action="add", what="node", name=n, detail=p["kind"]) for n, p in after.items() if n not in before),
        *(
            Change(action="change", what="node", name=n, detail=f"{_consequence(after[n])}: changed {', '.join(why)}")
            for n, why in sorted(replaced.items())
        ),
    ]


def _policy_changes(running: Plan, wanted: Plan, kept: set[str]) -> list[Change]:
    """Changed restart policies, which need no action now."""
    before = {node.name: node.restart for node in running.nodes}
    changed = [node for node in wanted.nodes if node.name in kept and node.restart != before[node.name]]
    return [
        Change(action="change", what="node", name=node.name, detail=f"restart: {before[node.name]} -> {node.restart}")
        for node in changed
    ]


def _consequence(parts: dict[str, Any]) -> str:
    return "restarted, its flows end" if parts["kind"] == "proxy" else "replaced"


def _link_changes(
    old: dict[tuple[str, str], Link], removed: list[Link], added: list[Link], changed: list[Link]
) -> list[Change]:
    renewed_keys = {(link.node, link.network) for link in removed} & {(link.node, link.network) for link in added}
    changes = []
    for action, links in (("remove", removed), ("add", added)):
        kept = [link for link in links if (link.node, link.network) not in renewed_keys]
        changes += [_link_change(action, link, " ".join(link.addresses)) for link in kept]  # type: ignore[arg-type]  # a loop loses the Literal
    renewed = [link for link in added if (link.node, link.network) in renewed_keys]
    changes += [_link_change("change", link, _describe_renewal(old[link.node, link.network], link)) for link in renewed]
    for link in changed:
        before = old[link.node, link.network].impairment
        changes.append(_link_change("change", link, _describe_impairments(before, link.impairment)))
    return changes


def _link_change(action: Literal["add", "remove", "change"], link: Link, detail: str) -> Change:
    return Change(action=action, what="link", name=f"{link.node}:{link.network}", detail=detail)


def _describe_renewal(old: Link, new: Link) -> str:
    names = [name for name in old.__struct_fields__ if getattr(old, name) != getattr(new, name)]
    return "; ".join(f"{name}: {_text(getattr(old, name))} -> {_text(getattr(new, name))}" for name in names)


def _text(value: object) -> str:
    if isinstance(value, Impairment):
        return value.describe() or "unimpaired"
    return " ".join(map(str, value)) if isinstance(value, list) else str(value)


def _describe_impairments(before: Impairment, after: Impairment) -> str:
    return f"{before.describe() or 'unimpaired'} -> {after.describe() or 'unimpaired'}"


def _tunnel_changes(
    before: dict[str, dict[str, Any]], after: dict[str, dict[str, Any]], kept: set[str]
) -> list[Change]:
    changes = []
    for name in sorted(kept):
        old, new = (msgspec.convert(parts[name]["tunnel"] or {}, Impairment) for parts in (before, after))
        if old != new:
            detail = _describe_impairments(old, new)
            changes.append(Change(action="change", what="tunnel", name=f"{name}:tunnel", detail=detail))
    return changes

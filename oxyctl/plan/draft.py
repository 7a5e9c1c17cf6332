"""A plan under construction, to which the planners of `plan.nodes` add; and the parts that all nodes share."""

from __future__ import annotations

import hashlib
import json
import sys
from collections.abc import Collection
from pathlib import Path
from typing import Any

from oxyctl.plan.steps import (
    Bridge,
    Device,
    File,
    Link,
    Namespace,
    Plan,
    PlannedNode,
    Probe,
    Process,
    Route,
    Rule,
    SiteTunnel,
)
from oxyctl.plan.trust import TrustPlan
from oxyctl.topology.addresses import assign, assign_clients
from oxyctl.topology.links import impairment_of, mtu_of
from oxyctl.topology.model import Lab
from oxyctl.topology.nodes import SiteNode
from oxyctl.topology.routing import find_routes

FIRST_BRIDGE, FIRST_PORT, FIRST_INTERFACE = 1000, 10_000, 10  # interface indexes, above those that the kernel assigns

MODULES = {
    "services": "oxyctl.services",
    "agents": "oxyctl.agents",
    "sites": "oxyctl.agents.sites",
    "names": "oxyctl.services.names",
}
SYSCTLS = {
    # addresses are usable at once, and router advertisements, which nobody sends, are ignored
    "net/ipv6/conf/all/accept_dad": ["0"],
    "net/ipv6/conf/default/accept_dad": ["0"],
    "net/ipv6/conf/all/accept_ra": ["0"],
    "net/ipv6/conf/default/accept_ra": ["0"],
}
FORWARDING = {
    "net/ipv4/ip_forward": ["1"],
    "net/ipv6/conf/all/forwarding": ["1"],
}


class Draft:
    """A plan under construction. `kernel_kinds`: kinds of tunnels that this kernel supports."""

    def __init__(self, lab: Lab, run: Path, kernel_kinds: Collection[str] = ()) -> None:
        self.lab, self.run, self.kernel_kinds = lab, run, kernel_kinds
        self.namespaces: list[Namespace] = []
        self.processes: list[Process] = []
        self.nodes: list[PlannedNode] = []
        self.agents: list[dict[str, Any]] = []  # entries of the shared agent process
        self.services: list[dict[str, Any]] = []  # entries of the shared service process
        self.sites: list[dict[str, Any]] = []  # entries of the shared program that carries sites' tunnels
        self.devices: list[Device] = []
        self.rules: list[Rule] = []
        self.tunnels: list[SiteTunnel] = []
        self._files: list[File] = []
        self.assigned = assign(lab)
        self._clients = assign_clients(lab)
        self.trust = TrustPlan(lab, run)

    @property
    def base(self) -> Path:
        """The directory of the lab file."""
        return self.lab.base

    def home(self, node: str) -> Path:
        """The directory for the files of `node`."""
        return self.run / "nodes" / node

    def namespace_file(self, node: str, kind: str = "net") -> Path:
        """The file, inside the lab, to which a namespace of `node` is bound. `kind`: net, uts or mnt."""
        return self.run / "ns" / kind / node

    def addresses(self, node: str) -> list[str]:
        """All addresses of `node`, inside its tunnel first, without prefix lengths."""
        networks = list(self.assigned[node].values())
        if isinstance(self.lab.nodes[node], SiteNode):
            networks.reverse()  # the LAN's first: its tenant knows the site by that address
        own = [str(interface.ip) for interfaces in networks for interface in interfaces]
        return self._clients.get(node, []) + own

    def add_namespace(self, node: str, sysctls: dict[str, list[str]] | None = None) -> None:
        """Add a namespace for `node`, with `sysctls` in addition to those of every node."""
        definition = self.lab.nodes[node]
        if len(definition.attached) > 1:  # answers may leave through another link than requests arrive
            interfaces = ["all", "default", *(f"eth{number}" for number in range(len(definition.attached)))]
            sysctls = (sysctls or {}) | {f"net/ipv4/conf/{each}/rp_filter": ["0"] for each in interfaces}
        files = self._own_files(node)
        namespace = Namespace(
            node=node, sysctls=SYSCTLS | (sysctls or {}), files=files, bundle=self.trust.bundle_of(node)
        )
        self.namespaces.append(namespace)

    def _own_files(self, node: str) -> dict[str, str]:
        """Files that only `node` sees: by path, the file below its directory that has the content."""
        paths: dict[str, str] = {}
        for number, (path, text) in enumerate(self.lab.nodes[node].files.items()):
            source = self.home(node) / "files" / f"{number}-{Path(path).name}"
            self.add_file(source, text)
            paths[path] = str(source)
        return paths

    def add_file(self, path: Path, text: str) -> None:
        """Add a file below the run directory."""
        self._files.append(File(path=str(path), text=text))

    def add_node(self, name: str, kind: str, process: str, probe: Probe, control: str | None = None) -> None:
        """Add the node `name`, which `process` serves and which is ready when `probe` succeeds."""
        addresses = self.addresses(name)
        definition = self.lab.nodes[name]
        node = PlannedNode(
            name=name,
            kind=kind,
            addresses=addresses,
            process=process,
            probe=probe,
            control=control,
            labels=definition.labels,
            environment=self.environment(name),
            restart=definition.restart,
        )
        self.nodes.append(node)

    def environment(self, node: str) -> dict[str, str]:
        """The environment for programs of `node`: the locations of trusted certificates, overridden by the lab file."""
        return self.trust.environment_of(node) | self.lab.nodes[node].env

    @property
    def sites_status(self) -> Path:
        """The socket on which the program that carries sites' tunnels reports its counters."""
        return self.run / "sites.sock"

    def finish(self) -> Plan:
        """The complete plan, including the programs that nodes share."""
        if self.services:
            config = {"nodes": self.services, "state": str(self.trust.directory), "hosts": str(self.run / "hosts"),
                      "user_cas": self.trust.user_cas()}  # fmt: skip
            self._add_shared("services", config)
        if self.agents:
            self._add_shared("agents", {"clients": self.agents})
        if self.sites:
            self._add_shared("sites", {"tunnels": self.sites, "status": str(self.sites_status)})
        self.add_file(self.run / "hosts", self._hosts())
        self._add_shared("names", {"hosts": str(self.run / "hosts"), "nodes": self._resolver_nodes()})
        return Plan(
            lab=self.lab.name,
            source=str(self.lab.file),
            namespaces=self.namespaces,
            bridges=self._bridges(),
            links=self._links(),
            files=self._files,
            processes=self.processes,
            nodes=self.nodes,
            routes=self._routes(),
            devices=self.devices,
            rules=self.rules,
            tunnels=self.tunnels,
            authority=str(self.trust.directory) if self.trust.may_inspect else None,
            bundles=self.trust.bundles(),
            terminates_ssh=self.trust.terminates_ssh,
        )

    def _routes(self) -> list[Route]:
        interfaces = {name: list(node.attached) for name, node in self.lab.nodes.items()}
        return [
            Route(
                node=node,
                index=FIRST_INTERFACE + interfaces[node].index(hop.network),
                to=str(hop.to),
                via=hop.via,
                metric=hop.metric,
            )
            for node, hops in find_routes(self.lab, self.assigned).items()
            for hop in hops
        ]

    def _resolver_nodes(self) -> list[dict[str, str]]:
        """The nodes in which the shared resolver listens: those without a service of their own on port 53."""
        return [
            {"name": name, "netns": str(self.namespace_file(name))}
            for name, node in self.lab.nodes.items()
            if node.resolver and 53 not in getattr(node, "services", {}).values()
        ]

    def _add_shared(self, name: str, config: dict[str, Any]) -> None:
        path = self.run / f"{name}.json"
        self.add_file(path, json.dumps(config, indent=1))
        command = [sys.executable, "-m", MODULES[name], str(path)]
        self.processes.append(Process(name=name, command=command, directory=str(self.run), reports=True))

    def _bridges(self) -> list[Bridge]:
        return [
            Bridge(network=network, name=f"br{number}", index=FIRST_BRIDGE + number)
            for number, network in enumerate(self.lab.networks)
        ]

    def _links(self) -> list[Link]:
        bridges = {network: FIRST_BRIDGE + number for number, network in enumerate(self.lab.networks)}
        links: list[Link] = []
        for node, definition in self.lab.nodes.items():
            for number, network in enumerate(definition.attached):
                port = len(links)
                link = Link(
                    node=node,
                    network=network,
                    interface=f"eth{number}",
                    index=FIRST_INTERFACE + number,
                    mac=_mac(node, network),
                    addresses=[str(interface) for interface in self.assigned[node][network]],
                    port=f"veth{port}",
                    port_index=FIRST_PORT + port,
                    bridge_index=bridges[network],
                    mtu=mtu_of(self.lab, node, network),
                    impairment=impairment_of(self.lab, node, network),
                )
                links.append(link)
        return links

    def _hosts(self) -> str:
        lines = ["127.0.0.1 localhost", "::1 localhost ip6-localhost ip6-loopback"]
        lines += [f"{address} {node.name}" for node in self.nodes for address in node.addresses]
        return "\n".join(lines) + "\n"


def _mac(node: str, network: str) -> str:
    """A locally administered MAC address (IEEE 802), always the same for a node's link."""
    return "02:" + hashlib.blake2s(f"{node} {network}".encode(), digest_size=5).digest().hex(":")

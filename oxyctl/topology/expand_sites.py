"""Expands sites: the LAN of each into a network, its hosts into nodes, before validation.

The k-th site of a file gets the LAN 10.k.0.0/24 and fd00:10:k::/64 unless it sets another; if one of them overlaps
a subnet in the file, the next free number is used. Errors still have the positions of the original.
"""

from __future__ import annotations

import ipaddress
from typing import Any

from oxyctl.services.ports import PORTS
from oxyctl.services.registry import SERVICES
from oxyctl.topology.expand import KINDS
from oxyctl.topology.model import KeyPath
from oxyctl.topology.nodes.site import MAX_SITES, SiteNode
from proxy.settings import Document

SITE_KINDS = tuple(kind for kind, node in KINDS.items() if issubclass(node, SiteNode))
FAMILIES = ("ipv4", "ipv6")
NETWORK_KEYS = ("mtu", "rate", "delay", "jitter", "loss", "down")  # keys of `lan` for its network, besides subnets
SUBNETS = {"ipv4": "10.{}.0.0/24", "ipv6": "fd00:10:{:x}::/64"}
UNKNOWN_PORT = 1  # of an unknown service, which is reported where services are checked

Json = dict[str, Any]
Subnet = ipaddress.IPv4Network | ipaddress.IPv6Network


def expand_sites(document: Document) -> Document:
    """The document with the networks and hosts of its sites added."""
    nodes = document.data.get("nodes")
    if not isinstance(nodes, dict) or not any(_is_site(node) for node in nodes.values()):
        return document
    return _Expansion(document, nodes).finish()


class _Expansion:
    def __init__(self, document: Document, nodes: Json) -> None:
        self.document, self.written = document, nodes
        self.networks: Json = dict(_mapping(document.data.get("networks")))
        self.nodes: Json = {}
        self.lan_sites: dict[str, str] = {}  # the site by network
        self.host_origins: dict[str, tuple[str, str]] = {}  # by node, its site and its name there
        self.taken = _written_subnets(self.networks, nodes)

    def finish(self) -> Document:
        for name, node in self.written.items():
            if not _is_site(node):
                self._add_node(name, node, ("nodes", name))
                continue
            site = self._site(name, node)
            self._add_node(name, site, ("nodes", name))
            for host, settings in _mapping(site.get("hosts")).items():
                self._add_host(name, host, settings, site)
        data = self.document.data | {"networks": self.networks, "nodes": self.nodes}
        return self.document.derived(data, self._origin)

    def _add_node(self, name: str, node: Any, written: KeyPath) -> None:
        if name in self.nodes or (written != ("nodes", name) and name in self.written):
            raise self.document.error(f"there is already a node '{name}'", written, at_key=True)
        self.nodes[name] = node

    def _site(self, name: str, node: Json) -> Json:
        """The site with the defaults that follow from the rest of the file."""
        node = dict(node)
        proxies = {other: each for other, each in self.written.items() if _kind(each) == "proxy"}
        if "via" not in node and len(proxies) == 1:
            node["via"] = next(iter(proxies))
        proxy = proxies.get(str(node.get("via")))
        if "on" not in node and proxy is not None and len(networks := _names(proxy.get("networks"))) == 1:
            node["on"] = networks[0]
        if isinstance(node.get("lan", {}), dict):
            node["lan"] = lan = self._lan(node.get("lan", {}))
            lan.setdefault("name", f"{name}-lan")
            self._add_network(name, lan)
        return node

    def _lan(self, settings: Json) -> Json:
        lan = dict(settings)
        automatic = [family for family in FAMILIES if lan.get(family, True) is True]
        number = 1 + len(self.lan_sites)
        while number < MAX_SITES and any(self._overlaps(_subnet(family, number)) for family in automatic):
            number += 1
        for family in automatic:
            lan[family] = str(_subnet(family, number))
            self.taken.append(_subnet(family, number))
        return lan

    def _overlaps(self, subnet: Subnet) -> bool:
        return any(other.version == subnet.version and other.overlaps(subnet) for other in self.taken)

    def _add_network(self, site: str, lan: Json) -> None:
        name = lan["name"]
        if not isinstance(name, str):
            return
        if name in self.networks:
            key_path = ("nodes", site, "lan", "name")
            message = f"there is already a network '{name}': set another name with `lan: {{name: ...}}`"
            raise self.document.error(message, key_path)
        subnets = [lan[family] for family in FAMILIES if isinstance(lan[family], str)]
        if not subnets:
            raise self.document.error("a LAN needs an IPv4 or an IPv6 subnet", ("nodes", site, "lan"))
        self.networks[name] = {"subnets": subnets, "gateway": site} | {k: lan[k] for k in NETWORK_KEYS if k in lan}
        self.lan_sites[name] = site

    def _add_host(self, site: str, host: Any, settings: Any, node: Json) -> None:
        lan = _mapping(node.get("lan")).get("name")
        if not isinstance(settings, dict) or not isinstance(lan, str):
            return  # reported when the site itself is checked
        name, key_path = f"{site}-{host}", ("nodes", site, "hosts", str(host))
        services = self._services(settings.get("services", ["http", "echo"]), key_path)
        rest = {key: settings[key] for key in ("root", "files", "env", "labels", "trust") if key in settings}
        base = {"kind": "upstream", "networks": {lan: settings.get("addresses", [])}, "services": services}
        self._add_node(name, base | rest, key_path)
        self.host_origins[name] = site, str(host)

    def _services(self, services: Any, key_path: KeyPath) -> Any:
        if not isinstance(services, list):
            return services
        for number, service in enumerate(services):
            if service in SERVICES and service not in PORTS:
                message = f"service '{service}' has no default port: write `{{{service}: PORT}}`"
                raise self.document.error(message, (*key_path, "services", number))
        return {service: PORTS.get(service, UNKNOWN_PORT) for service in services if isinstance(service, str)}

    def _origin(self, key_path: KeyPath) -> KeyPath:
        """The place in the file: at the site."""
        if key_path[:1] == ("networks",) and len(key_path) > 1 and str(key_path[1]) in self.lan_sites:
            return self._lan_origin(self.lan_sites[str(key_path[1])], key_path)
        if key_path[:1] != ("nodes",) or len(key_path) < 2 or str(key_path[1]) not in self.host_origins:
            return key_path
        site, host = self.host_origins[str(key_path[1])]
        rest = key_path[2:]
        rest = ("addresses", *rest[2:]) if rest[:1] == ("networks",) else rest
        return ("nodes", site, "hosts", host, *self._service_key_path(site, host, rest))

    def _service_key_path(self, site: str, host: str, rest: KeyPath) -> KeyPath:
        """The place of a service in a list is its index."""
        services = _mapping(_mapping(self.written[site].get("hosts")).get(host)).get("services")
        if rest[:1] == ("services",) and len(rest) > 1 and isinstance(services, list) and rest[1] in services:
            return ("services", services.index(rest[1]))
        return rest

    def _lan_origin(self, site: str, key_path: KeyPath) -> KeyPath:
        rest = key_path[2:]
        if rest[:1] == ("subnets",) and len(rest) > 1:
            subnets = self.networks[str(key_path[1])]["subnets"]
            family = "ipv6" if ":" in str(subnets[int(rest[1])]) else "ipv4"
            return ("nodes", site, "lan", family)
        return ("nodes", site, "lan", *rest)


def _kind(node: Any) -> Any:
    return node.get("kind") if isinstance(node, dict) else None


def _is_site(node: Any) -> bool:
    return _kind(node) in SITE_KINDS


def _mapping(value: Any) -> Json:
    return value if isinstance(value, dict) else {}


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _names(networks: Any) -> list[Any]:
    return list(networks) if isinstance(networks, dict) else _list(networks)


def _subnet(family: str, number: int) -> Subnet:
    return ipaddress.ip_network(SUBNETS[family].format(number))


def _written_subnets(networks: Json, nodes: Json) -> list[Subnet]:
    """The valid subnets in the file itself."""
    texts = [text for network in networks.values() for text in _list(_mapping(network).get("subnets"))]
    texts += [_mapping(node.get("lan")).get(family) for node in nodes.values() if _is_site(node) for family in FAMILIES]
    subnets: list[Subnet] = []
    for text in texts:
        try:
            subnets += [ipaddress.ip_network(text)] if isinstance(text, str) else []
        except ValueError:  # reported where all subnets are checked
            continue
    return subnets

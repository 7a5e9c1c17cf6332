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
from oxyctl.topology.nodes.site import MAX_SITES, SiteNode
from proxy.settings import Document
from proxy.settings.document import Place

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
        self.lans: dict[str, str] = {}  # the site by network
        self.homes: dict[str, tuple[str, str]] = {}  # by node, its site and its name there
        self.taken = _written_subnets(self.networks, nodes)

    def finish(self) -> Document:
        for name, node in self.written.items():
            if not _is_site(node):
                self._place(name, node, ("nodes", name))
                continue
            site = self._site(name, node)
            self._place(name, site, ("nodes", name))
            for host, said in _mapping(site.get("hosts")).items():
                self._add_host(name, host, said, site)
        data = self.document.data | {"networks": self.networks, "nodes": self.nodes}
        return self.document.derived(data, self._origin)

    def _place(self, name: str, node: Any, written: Place) -> None:
        if name in self.nodes or (written != ("nodes", name) and name in self.written):
            raise self.document.error(f"this would be a second node '{name}'", written, at_key=True)
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

    def _lan(self, said: Json) -> Json:
        lan = dict(said)
        automatic = [family for family in FAMILIES if lan.get(family, True) is True]
        number = 1 + len(self.lans)
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
            place = ("nodes", site, "lan", "name")
            message = f"there is already a network '{name}'; `lan: {{name: ...}}` sets another name"
            raise self.document.error(message, place)
        subnets = [lan[family] for family in FAMILIES if isinstance(lan[family], str)]
        if not subnets:
            raise self.document.error("a LAN needs at least one family", ("nodes", site, "lan"))
        self.networks[name] = {"subnets": subnets, "gateway": site} | {k: lan[k] for k in NETWORK_KEYS if k in lan}
        self.lans[name] = site

    def _add_host(self, site: str, host: Any, said: Any, node: Json) -> None:
        lan = _mapping(node.get("lan")).get("name")
        if not isinstance(said, dict) or not isinstance(lan, str):
            return  # reported when the site itself is checked
        name, place = f"{site}-{host}", ("nodes", site, "hosts", str(host))
        services = self._services(said.get("services", ["http", "echo"]), place)
        rest = {key: said[key] for key in ("root", "files", "env", "labels", "trust") if key in said}
        base = {"kind": "upstream", "networks": {lan: said.get("addresses", [])}, "services": services}
        self._place(name, base | rest, place)
        self.homes[name] = site, str(host)

    def _services(self, said: Any, place: Place) -> Any:
        if not isinstance(said, list):
            return said
        for number, service in enumerate(said):
            if service in SERVICES and service not in PORTS:
                message = f"service '{service}' has no default port: write `{{{service}: PORT}}`"
                raise self.document.error(message, (*place, "services", number))
        return {service: PORTS.get(service, UNKNOWN_PORT) for service in said if isinstance(service, str)}

    def _origin(self, place: Place) -> Place:
        """The place in the file: at the site."""
        if place[:1] == ("networks",) and len(place) > 1 and str(place[1]) in self.lans:
            return self._lan_origin(self.lans[str(place[1])], place)
        if place[:1] != ("nodes",) or len(place) < 2 or str(place[1]) not in self.homes:
            return place
        site, host = self.homes[str(place[1])]
        rest = place[2:]
        rest = ("addresses", *rest[2:]) if rest[:1] == ("networks",) else rest
        return ("nodes", site, "hosts", host, *self._service_place(site, host, rest))

    def _service_place(self, site: str, host: str, rest: Place) -> Place:
        """The place of a service in a list is its index."""
        said = _mapping(_mapping(self.written[site].get("hosts")).get(host)).get("services")
        if rest[:1] == ("services",) and len(rest) > 1 and isinstance(said, list) and rest[1] in said:
            return ("services", said.index(rest[1]))
        return rest

    def _lan_origin(self, site: str, place: Place) -> Place:
        rest = place[2:]
        if rest[:1] == ("subnets",) and len(rest) > 1:
            subnets = self.networks[str(place[1])]["subnets"]
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
    found: list[Subnet] = []
    for text in texts:
        try:
            found += [ipaddress.ip_network(text)] if isinstance(text, str) else []
        except ValueError:  # reported where all subnets are checked
            continue
    return found

"""Errors in a lab file that types do not catch, each with its position."""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Iterator
from functools import partial

from oxyctl.topology.addresses import Address, Subnet, SubnetFull, assign
from oxyctl.topology.checks import validate_checks
from oxyctl.topology.links import check_impairments
from oxyctl.topology.model import Lab
from oxyctl.topology.nodes import ProxyNode, SiteNode, WarpNode
from oxyctl.topology.overlaps import overlap_conflict, overlapping
from oxyctl.topology.routes import RouteError
from oxyctl.topology.routing import find_routes
from oxyctl.topology.sites import check_mtu
from oxyctl.topology.tenant_routes import check_routes
from oxyctl.topology.trust import check_trust
from proxy.settings import Document, DocumentError, suggest
from proxy.settings.model import check_tenants

LAB_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,62}")
NODE_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?")  # a DNS label
RESERVED = {"localhost": "it means every node itself"} | dict.fromkeys(
    ("agents", "services", "sites", "names", "supervisor"), ""
)


def validate(document: Document, lab: Lab) -> None:
    """Raise the DocumentError for the first mistake in `lab`, which was read from `document`."""
    _check_names(document, lab)
    subnets = _check_networks(document, lab)
    _check_attachments(document, lab, subnets)
    check_impairments(document, lab)
    for name, node in lab.nodes.items():  # before their clients, which rely on them
        if isinstance(node, ProxyNode):
            check_tenants(document, node.tenants, ("nodes", name, "tenants"))
    for name, node in lab.nodes.items():
        error_at = partial(_error_at, document, name)
        node.check(name, lab, error_at)
        check_trust(name, lab, error_at)
        if isinstance(node, ProxyNode):
            check_routes(name, node, lab, error_at)
        if isinstance(node, SiteNode):
            check_mtu(lab, name, error_at)
        for path in node.files:
            if not is_plain_path(path):
                raise document.error(
                    f"not an absolute path of a file: {path}", ("nodes", name, "files", path), at_key=True
                )
    _check_clients(document, lab)
    try:
        find_routes(lab, assign(lab))
    except SubnetFull as error:
        raise document.error(str(error), ("nodes", error.node, "networks", error.network)) from None
    except RouteError as error:
        raise document.error(str(error), error.key_path) from None
    validate_checks(document, lab, lab.checks)


def is_plain_path(path: str) -> bool:
    """Whether `path` is a normalised absolute path of a file."""
    return path.startswith("/") and not path.startswith("//") and path != "/" and os.path.normpath(path) == path


def is_lab_name(name: str) -> bool:
    """Whether `name` is a valid name for a lab: it becomes a directory and a host name."""
    return LAB_NAME.fullmatch(name) is not None


def _error_at(document: Document, node: str, message: str, *key_path: str | int, at_key: bool = False) -> DocumentError:
    return document.error(message, ("nodes", node, *key_path), at_key=at_key)


def _check_names(document: Document, lab: Lab) -> None:
    if not is_lab_name(lab.name):
        rule = "letters, digits, '.', '_' and '-', at most 63"
        raise document.error(f"'{lab.name}' is not a valid lab name (allowed: {rule})", ("name",))
    for name in lab.nodes:
        if not NODE_NAME.fullmatch(name):
            rule = "a DNS label: lower-case letters, digits and '-', at most 63"
            raise document.error(f"'{name}' is not a valid node name (allowed: {rule})", ("nodes", name), at_key=True)
        if name in RESERVED:
            reason = RESERVED[name] or "the lab's own logs use this name"
            raise document.error(f"'{name}' cannot be the name of a node: {reason}", ("nodes", name), at_key=True)


def _check_networks(document: Document, lab: Lab) -> dict[str, list[Subnet]]:
    result: dict[str, list[Subnet]] = {}
    for name, network in lab.networks.items():
        result[name] = []
        for index, text in enumerate(network.subnets):
            key_path = ("networks", name, "subnets", index)
            try:
                subnet = ipaddress.ip_network(text)
            except ValueError as error:
                raise document.error(f"not a subnet: {error}", key_path) from None
            for other, earlier in overlapping(result, subnet):
                if (why := overlap_conflict(lab, name, other)) is not None:
                    raise document.error(f"{subnet} overlaps {earlier} of network '{other}', {why}", key_path)
            result[name].append(subnet)
    return result


def _check_attachments(document: Document, lab: Lab, subnets: dict[str, list[Subnet]]) -> None:
    owners: dict[tuple[str, Address], str] = {}  # networks whose subnets overlap may have the same addresses
    for name, network, key_path, given in _attachments(lab):
        if network not in subnets:
            unknown = f"unknown network '{network}'{suggest(network, subnets)}"
            raise document.error(unknown, key_path, at_key=key_path[-1] == network)
        for index, text in enumerate(given):
            address_path = ("nodes", name, *lab.nodes[name].addresses_key_path(network), index)
            try:
                address = ipaddress.ip_address(text)
            except ValueError as error:
                raise document.error(f"not an address: {error}", address_path) from None
            _check_in_subnet(document, address, network, subnets[network], address_path)
            if (owner := owners.setdefault((network, address), name)) != name or given.index(text) != index:
                raise document.error(f"{address} is already an address of node '{owner}'", address_path)


def _attachments(lab: Lab) -> Iterator[tuple[str, str, tuple[str | int, ...], list[str]]]:
    """For each attachment: node, network, its place in the file, and the addresses given there."""
    for name, node in lab.nodes.items():
        for network, given in node.attached.items():
            yield name, network, ("nodes", name, *node.key_path_of(network)), given


def _check_in_subnet(
    document: Document, address: Address, network: str, subnets: list[Subnet], key_path: tuple[str | int, ...]
) -> None:
    subnet = next((subnet for subnet in subnets if address in subnet), None)
    if subnet is None:
        known = ", ".join(map(str, subnets))
        raise document.error(f"{address} is outside network '{network}' ({known})", key_path)
    is_first_or_last = subnet.prefixlen < subnet.max_prefixlen - 1 and address in (subnet[0], subnet[-1])
    if is_first_or_last and (subnet.version == 4 or address == subnet[0]):
        raise document.error(f"{address} is the network address or the broadcast address", key_path)


def _check_clients(document: Document, lab: Lab) -> None:
    owners: dict[tuple[str, str, str, Address], str] = {}
    clients = {name: node for name, node in lab.nodes.items() if isinstance(node, WarpNode)}
    for name, node in clients.items():
        for index, text in enumerate(node.addresses):
            key = (node.proxy, node.tenant, node.network, ipaddress.ip_address(text))
            if (owner := owners.setdefault(key, name)) != name:
                raise document.error(
                    f"{text} is already an address of node '{owner}'", ("nodes", name, "addresses", index)
                )

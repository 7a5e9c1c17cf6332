"""The schema of CONFIG.json: the nodes, their addresses, and which service listens on which port."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from oxyctl.services.registry import SERVICES
from proxy.settings import Document, read, suggest

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,62}$")]
Port = Annotated[int, Meta(ge=0, le=65_535)]


class _Part(msgspec.Struct, forbid_unknown_fields=True, kw_only=True, frozen=True):
    """A mapping that accepts known keys only."""


class NodeConfig(_Part, frozen=True):
    """One node. Its services listen on every address of its namespace; without `netns`, on `addresses` of this one."""

    name: Name
    services: dict[str, Port]  # port 0: any free one, named in the report
    netns: str | None = None
    utsns: str | None = None  # with the host name that programs of ssh see
    mntns: str | None = None  # with the files that they see
    env: dict[str, str] = msgspec.field(default_factory=dict)  # added to their environment
    addresses: list[str] = msgspec.field(default_factory=lambda: ["127.0.0.1", "::1"])
    root: str | None = None  # a directory whose files http and https serve


class Config(_Part, frozen=True):
    """All nodes of a lab, and the directory that keeps their keys and certificates."""

    nodes: list[NodeConfig]
    state: str
    hosts: str | None = None  # the hosts file of the lab
    user_cas: list[str] = msgspec.field(default_factory=list)  # files with the authorities that sshd trusts
    generation: int = 0  # repeated in the report that follows a change


def load(path: str | Path) -> Config:
    """Read the file `path`, JSON or YAML. DocumentError names the file, line and column of a mistake."""
    document = read(path)
    config = document.convert(Config)
    seen: set[str] = set()
    for index, node in enumerate(config.nodes):
        if node.name in seen:
            raise document.error(f"node '{node.name}' is listed twice", ("nodes", index, "name"))
        seen.add(node.name)
        _check(document, index, node)
    return config


def _check(document: Document, index: int, node: NodeConfig) -> None:
    for service in node.services:
        if service not in SERVICES:
            key_path = ("nodes", index, "services", service)
            raise document.error(f"unknown service '{service}'{suggest(service, SERVICES)}", key_path, at_key=True)
    for position, address in enumerate(node.addresses):
        try:
            ipaddress.ip_address(address)
        except ValueError as error:
            raise document.error(f"not an address: {error}", ("nodes", index, "addresses", position)) from None
    if node.netns is None and not node.addresses:
        raise document.error("addresses to listen on are required without a netns", ("nodes", index, "addresses"))
    if node.root is not None and not Path(node.root).is_dir():
        raise document.error(f"not a directory: {node.root}", ("nodes", index, "root"))

"""Expands `defaults:` and `count:` of a lab file into every node, before validation.

The members of a group `client` with `count: 50` are `client-1` to `client-50`. In a member's strings `{i}` is its
number; its addresses count up from the group's; its label `group` names the group. `from: client` in a check means all
members.
"""

from __future__ import annotations

import ipaddress
import typing
from typing import Any

from msgspec.structs import fields

from oxyctl.topology.model import KeyPath
from oxyctl.topology.nodes import AnyNode
from proxy.settings import Document, suggest

MAX_COUNT, MAX_NODES = 1000, 2000
NUMBER = "{i}"
MERGED = ("env", "labels", "files")  # a node's own entries are merged into the default's
NOT_SHARED = ("kind", "count")  # keys that cannot have a default
KINDS = {kind.__struct_config__.tag: kind for kind in typing.get_args(AnyNode)}


def expand(document: Document) -> Document:
    """The document with all nodes expanded; errors in it still have the positions of the original."""
    nodes = _mapping(document.data, "nodes")
    if not nodes or not ("defaults" in document.data or any(_count(node) for node in nodes.values())):
        return document
    _check_defaults(document)
    return _Expansion(document, nodes).finish()


class _Expansion:
    def __init__(self, document: Document, nodes: dict[str, Any]) -> None:
        self.document, self.written = document, nodes
        self.defaults = _mapping(document.data, "defaults")
        self.nodes: dict[str, Any] = {}
        self.groups: dict[str, list[str]] = {}
        self.source_names: dict[str, str] = {}  # by node, its name in the file
        self.member_key_paths: dict[KeyPath, KeyPath] = {}  # by place in an expanded check, its place in the file

    def finish(self) -> Document:
        for name, node in self.written.items():
            self._add(name, node)
        data = self.document.data | {"nodes": self.nodes}
        if isinstance(data.get("checks"), list):
            data["checks"] = [self._check(number, check) for number, check in enumerate(data["checks"])]
        return self.document.derived(data, self._origin)

    def _add(self, name: str, node: Any) -> None:
        whole = self._with_defaults(node)
        count = _count(whole)
        if count is None:
            self._add_node(name, name, whole)
            return
        whole = {key: value for key, value in whole.items() if key != "count"}
        self.groups[name] = [f"{name}-{number}" for number in range(1, count + 1)]
        for number, member in enumerate(self.groups[name], start=1):
            self._add_node(member, name, _member(whole, name, number))

    def _add_node(self, name: str, written: str, node: Any) -> None:
        if name in self.nodes or (name != written and name in self.written):
            raise self.document.error(
                f"'{written}' expands to '{name}', and there is already a node of that name",
                ("nodes", written),
                at_key=True,
            )
        if len(self.nodes) == MAX_NODES:
            raise self.document.error(f"more than {MAX_NODES} nodes", ("nodes", written), at_key=True)
        self.nodes[name], self.source_names[name] = node, written

    def _with_defaults(self, node: Any) -> Any:
        default = _mapping(self.defaults, node.get("kind")) if isinstance(node, dict) else {}
        if not default:
            return node
        whole = default | node
        for key in MERGED:
            if isinstance(default.get(key), dict) and isinstance(node.get(key), dict):
                whole[key] = default[key] | node[key]
        return whole

    def _check(self, number: int, check: Any) -> Any:
        source = check.get("from") if isinstance(check, dict) else None
        names = [source] if isinstance(source, str) else source
        if not isinstance(names, list) or not any(isinstance(name, str) and name in self.groups for name in names):
            return check
        members: list[Any] = []
        for index, name in enumerate(names):
            for member in self.groups.get(name, [name]) if isinstance(name, str) else [name]:
                key_path: KeyPath = ("checks", number, "from")
                self.member_key_paths[(*key_path, len(members))] = (
                    key_path if isinstance(source, str) else (*key_path, index)
                )
                members.append(member)
        return check | {"from": members}

    def _origin(self, key_path: KeyPath) -> KeyPath:
        """The place in the file: in the group, or in the defaults of its kind."""
        if key_path in self.member_key_paths:
            return self.member_key_paths[key_path]
        if key_path[:1] != ("nodes",) or len(key_path) < 2 or key_path[1] not in self.source_names:
            return key_path
        name, rest = self.source_names[str(key_path[1])], key_path[2:]
        own = self.written[name]
        if isinstance(own, dict) and rest and not _is_set_in(own, rest):
            kind = own.get("kind")
            if rest[0] in _mapping(self.defaults, kind):
                return ("defaults", str(kind), *rest)
        return ("nodes", name, *rest)


def _is_set_in(node: dict[str, Any], rest: KeyPath) -> bool:
    """Whether the value at `rest` is set in the node itself."""
    key = rest[0]
    if key in MERGED and len(rest) > 1 and isinstance(node.get(str(key)), dict):
        return rest[1] in node[str(key)]
    return key in node


def _check_defaults(document: Document) -> None:
    """Raise the error for the first default of an unknown kind, or of a key that this kind does not have."""
    for kind, defaults in _mapping(document.data, "defaults").items():
        if kind not in KINDS:
            raise document.error(f"unknown kind '{kind}'{suggest(kind, KINDS)}", ("defaults", kind), at_key=True)
        known = [field.encode_name for field in fields(KINDS[kind]) if field.encode_name not in NOT_SHARED]
        for key in defaults if isinstance(defaults, dict) else ():
            if key not in known:
                message = f"unknown key '{key}' for {kind} nodes{suggest(key, known)}"
                raise document.error(message, ("defaults", kind, key), at_key=True)


def _mapping(data: Any, key: Any) -> dict[str, Any]:
    value = data.get(key) if isinstance(data, dict) else None
    return value if isinstance(value, dict) else {}


def _count(node: Any) -> int | None:
    """The number of members; None: a single node, or an invalid count, which is reported later."""
    count = node.get("count") if isinstance(node, dict) else None
    return count if type(count) is int and 1 <= count <= MAX_COUNT else None


def _member(whole: dict[str, Any], group: str, number: int) -> dict[str, Any]:
    node = dict(whole)
    if isinstance(node.get("addresses"), list):
        node["addresses"] = _count_up(node["addresses"], number)
    if isinstance(node.get("networks"), dict):
        node["networks"] = {network: _count_up(given, number) for network, given in node["networks"].items()}
    node["labels"] = {"group": group} | labels if isinstance(labels := node.get("labels", {}), dict) else labels
    return {key: _insert_number(value, number) for key, value in node.items()}


def _count_up(given: Any, number: int) -> Any:
    """The addresses of a member: those of the group, plus its number less one."""
    if isinstance(given, dict) and "addresses" in given:
        return given | {"addresses": _count_up(given["addresses"], number)}
    return [_add_steps(text, number - 1) for text in given] if isinstance(given, list) else given


def _add_steps(text: Any, steps: int) -> Any:
    try:
        return str(ipaddress.ip_address(text) + steps) if isinstance(text, str) else text
    except ValueError:  # invalid, or beyond the last: reported where all addresses are checked
        return text


def _insert_number(value: Any, number: int) -> Any:
    if isinstance(value, str):
        return value.replace(NUMBER, str(number))
    if isinstance(value, list):
        return [_insert_number(item, number) for item in value]
    return {key: _insert_number(item, number) for key, item in value.items()} if isinstance(value, dict) else value

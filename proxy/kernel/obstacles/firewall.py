"""Whether another program's chain would drop a packet of ours, according to nft(8) and iptables(8). Pure.

A rule with a condition that is not understood is assumed not to match, as it was not made for us.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

Json = dict[str, Any]

VERDICTS = ("accept", "drop", "reject", "return", "jump", "goto")
DEPTH = 16  # jumps, the kernel's limit
HALF = 0xFFFF_0000
FAMILIES = {"ip": (4,), "ip6": (6,), "inet": (4, 6)}


class Passing(msgspec.Struct, frozen=True):
    """A packet of ours, the first of a flow, as forward chains see it."""

    mark: int
    comes_by: str
    leaves_by: str
    version: int = 4
    state: str = "new"


class Chain(msgspec.Struct, frozen=True):
    """A chain that would drop such a packet."""

    family: str
    table: str
    name: str


def dropping(ruleset: Iterable[Json], packets: Sequence[Passing], *, but: str) -> Iterator[Chain]:
    """Chains at the hook `forward` that would drop one of `packets`. `ruleset`: from nft -j. `but`: our own table."""
    chains: dict[tuple[str, str], dict[str, list[Json]]] = {}
    hooked: list[Json] = []
    for each in ruleset:
        if (chain := each.get("chain")) is not None:
            chains.setdefault((chain["family"], chain["table"]), {}).setdefault(chain["name"], [])
            if chain.get("hook") == "forward" and chain["family"] in FAMILIES and chain["table"] != but:
                hooked.append(chain)
        elif (rule := each.get("rule")) is not None:
            table = chains.setdefault((rule["family"], rule["table"]), {})
            table.setdefault(rule["chain"], []).append(rule)
    for chain in hooked:
        rules = chains[chain["family"], chain["table"]]
        seen = [packet for packet in packets if packet.version in FAMILIES[chain["family"]]]
        verdicts = {_walk(rules, chain["name"], packet, DEPTH) or chain.get("policy", "accept") for packet in seen}
        if "drop" in verdicts:
            yield Chain(chain["family"], chain["table"], chain["name"])


def is_dropped_by_iptables(lines: Iterable[str], mark: int) -> bool:
    """Whether `iptables -S` shows a FORWARD chain with policy DROP, and no rule that accepts our mark."""
    text = list(lines)
    accepts = f"--mark {mark:#x}/{HALF:#x} -j ACCEPT"
    return "-P FORWARD DROP" in text and not any(accepts in line for line in text)


def _walk(rules: Mapping[str, list[Json]], name: str, packet: Passing, depth: int) -> str | None:
    """The verdict of a chain: `accept`, `drop`, or None if the packet reaches its end."""
    for rule in rules.get(name, ()) if depth else ():
        verdict, target = _verdict(rule.get("expr", ()), packet)
        if verdict in ("accept", "drop"):
            return verdict
        if verdict == "return":
            return None
        if verdict in ("jump", "goto"):
            inner = _walk(rules, target, packet, depth - 1)
            if inner is not None or verdict == "goto":
                return inner
    return None


def _verdict(expressions: Iterable[Json], packet: Passing) -> tuple[str | None, str]:
    """The verdict of one rule on the packet, None if it does not match; and the chain to which it jumps."""
    for expression in expressions:
        (kind, value), *_ = expression.items()
        if kind in VERDICTS:
            verdict = "drop" if kind == "reject" else kind
            return verdict, value["target"] if kind in ("jump", "goto") else ""
        if kind == "vmap":
            own = _left(value["key"], packet)
            for key, said in value["data"].get("set", ()) if isinstance(value["data"], dict) else ():
                if own is not None and _is_equal(own, key):
                    return _verdict([said], packet)
            return None, ""
        if kind == "xt" or (kind == "match" and not _matches(value, packet)):
            return None, ""
    return None, ""


def _matches(match: Json, packet: Passing) -> bool:
    own = _left(match["left"], packet)
    if own is None or match["op"] not in ("==", "!=", "in"):
        return False
    is_inverted: bool = match["op"] == "!="
    return _is_equal(own, match["right"]) != is_inverted


def _left(left: Json, packet: Passing) -> str | int | None:
    """The packet's value for the left side of a condition; None if unknown."""
    if "&" in left:
        inner, mask = left["&"]
        value = _left(inner, packet) if isinstance(inner, dict) else None
        return value & mask if isinstance(value, int) and isinstance(mask, int) else None
    own: dict[str, str | int] = {
        "mark": packet.mark, "iifname": packet.comes_by, "oifname": packet.leaves_by, "iif": packet.comes_by,
        "oif": packet.leaves_by, "nfproto": "ipv4" if packet.version == 4 else "ipv6",
    }  # fmt: skip
    if "meta" in left:
        return own.get(left["meta"].get("key"))
    if left.get("ct", {}).get("key") == "state":
        return packet.state
    return None


def _is_equal(own: str | int, right: Any) -> bool:
    if isinstance(right, list):
        return any(_is_equal(own, each) for each in right)
    if isinstance(right, dict):
        if "set" in right:
            return _is_equal(own, right["set"])
        if "prefix" in right and isinstance(own, int):
            addr, length = right["prefix"]["addr"], 32 - right["prefix"]["len"]
            return isinstance(addr, int) and own >> length == addr >> length
        if "range" in right and isinstance(own, int):
            low, high = right["range"]
            return isinstance(low, int) and isinstance(high, int) and low <= own <= high
        return False
    if isinstance(own, str) and isinstance(right, str) and right.endswith("*"):
        return own.startswith(right[:-1])
    return bool(own == right)

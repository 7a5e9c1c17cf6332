"""From facts about a namespace to the obstacles to the kernel off-ramp there, with fixes. Pure."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import ip_network
from typing import Literal

import msgspec

from proxy.device.routing import RT_TABLE_MAIN, Route, Rule
from proxy.kernel.obstacles.firewall import HALF, Json, Passing, dropping, is_dropped_by_iptables

Kind = Literal["nft", "rights", "firewall", "rp_filter", "forwarding", "conntrack", "routing rules", "IPv6"]

FULL = 0.8  # share of the conntrack table
RULES = 5  # our rules' consecutive priorities
LOCAL_TABLE, MAIN_PRIORITY = 255, 32_766
OUTWARD, ON_RAMP = 0x8000, 0x4000  # proxy/kernel/ruleset.py
STRICT = 1
# Unmarked packets of interface on-ramps: those to be decided, and our own replies.
UNMARKED = (("oifname", "-o", "oxi"), ("iifname", "-i", "oxb"))


class Obstacle(msgspec.Struct, frozen=True):
    """An obstacle. With `is_note` it is information only, and prevents nothing."""

    kind: Kind
    text: str
    fix: str | None = None  # a command, or a line for proxy.yaml
    is_note: bool = False

    def __str__(self) -> str:
        return self.text + (f"; to mend: {self.fix}" if self.fix else "")


class Facts(msgspec.Struct, frozen=True, kw_only=True):
    """What the off-ramp would use, and what was found in the namespace."""

    mark: int
    priority: int
    first_table: int
    table: str  # our own
    bound: tuple[str, ...] = ()  # interfaces that tenants are bound to
    on_ramps: tuple[str, ...] = ()
    interfaces: tuple[str, ...] = ()  # all those through which packets leave and return
    has_nft: bool = True
    may_change: bool = True
    ruleset: list[Json] | None = None  # output of nft -j; None: it could not be run
    iptables: dict[int, list[str]] = {}  # output of iptables-legacy -S, by IP version
    rules: list[Rule] = []
    routes: list[Route] = []
    indexes: dict[str, int] = {}
    sysctls: dict[str, int] = {}  # such as net/ipv4/conf/eth0/rp_filter; those that exist
    conntrack: tuple[int, int] | None = None
    advertised: tuple[str, ...] = ()  # interfaces with an advertised default route, lost when this host forwards


def judge(facts: Facts) -> list[Obstacle]:
    """The obstacles, most important first."""
    found = [*_tools(facts), *_firewall(facts), *_routing_rules(facts), *_reverse_path(facts), *_conntrack(facts)]
    return list(dict.fromkeys([*found, *_forwarding(facts), *_advertised(facts)]))


def _tools(facts: Facts) -> Iterator[Obstacle]:
    if not facts.has_nft:
        yield Obstacle("nft", "nft is not installed", "apt install nftables")
    if not facts.may_change:
        yield Obstacle("rights", "this user may not change the network namespace", "run the proxy as root")


def _firewall(facts: Facts) -> Iterator[Obstacle]:
    mark = facts.mark | OUTWARD | 1
    by = facts.interfaces or ("",)
    ours = [Passing(mark, "oxk0", name, version) for name in by for version in (4, 6)]
    for name in facts.on_ramps:
        ours += [Passing(mark | ON_RAMP, name, by[0], version) for version in (4, 6)]
        ours += [Passing(0, name, "oxi0", version, "untracked") for version in (4, 6)]  # to be decided
        ours += [Passing(0, "oxb0", name, version, "untracked") for version in (4, 6)]  # our own replies
    for chain in dropping(facts.ruleset or (), ours, but=facts.table):
        place = f"{chain.family} {chain.table} {chain.name}"
        if (chain.table, chain.name) == ("filter", "FORWARD"):
            fix = _iptables(facts, "iptables" if chain.family == "ip" else "ip6tables")
        else:
            fix = f"nft insert rule {place} 'meta mark & {HALF:#x} == {facts.mark:#x} accept'"
            for words, _, name in UNMARKED if facts.on_ramps else ():
                fix += f" && nft insert rule {place} '{words} \"{name}*\" accept'"
        yield Obstacle("firewall", f"the chain {place} of nftables drops packets that the off-ramp forwards", fix)
    for version, lines in facts.iptables.items():
        if is_dropped_by_iptables(lines, facts.mark):
            program = "iptables-legacy" if version == 4 else "ip6tables-legacy"
            text = f"the chain FORWARD of {program} drops packets that the off-ramp forwards"
            yield Obstacle("firewall", text, _iptables(facts, program))


def _iptables(facts: Facts, program: str) -> str:
    if "legacy" in program:
        known = {line.removeprefix("-N ") for line in facts.iptables.get(6 if "6" in program else 4, ())}
    else:
        family = "ip6" if "6" in program else "ip"
        chains = (each["chain"] for each in facts.ruleset or () if "chain" in each)
        known = {chain["name"] for chain in chains if chain["family"] == family}
    place = "DOCKER-USER" if "DOCKER-USER" in known else "FORWARD"  # Docker leaves that one unchanged
    fix = f"{program} -I {place} -m mark --mark {facts.mark:#x}/{HALF:#x} -j ACCEPT"
    for _, option, name in UNMARKED if facts.on_ramps else ():
        fix += f" && {program} -I {place} {option} {name}+ -j ACCEPT"
    return fix


def _routing_rules(facts: Facts) -> Iterator[Obstacle]:
    last = facts.priority + RULES - 1
    for rule in facts.rules:
        if _is_ours(facts, rule) or rule.table == LOCAL_TABLE or not _may_match(facts, rule):
            continue
        if rule.mask and not rule.is_inverted and rule.priority < MAIN_PRIORITY:
            text = f"the routing rule '{_text(rule)}' is for marks that the off-ramp uses, {facts.mark:#x}/{HALF:#x}"
            fix = f"kernel: {{mark: {_free_mark(facts):#x}}} in proxy.yaml"
            if not rule.mask & HALF:
                fix = f"let it be for fwmark {rule.mark:#x}/{rule.mask | HALF:#x} only"
            yield Obstacle("routing rules", text, fix)
        elif rule.priority <= last:
            text = f"the routing rule '{_text(rule)}' stands before those of the off-ramp, {facts.priority} to {last}"
            before = rule.priority - RULES
            fix = f"kernel: {{priority: {before}}} in proxy.yaml"
            fix = fix if before > 0 else "give that rule a priority behind them"
            # a rule with further conditions is probably for other packets
            yield Obstacle("routing rules", text, fix, is_note=rule.is_narrow)


def _is_ours(facts: Facts, rule: Rule) -> bool:
    tables = range(facts.first_table, facts.first_table + 2 * 0x1_0000)
    return (rule.mask == 0xFFFF_FFFF and rule.mark & HALF == facts.mark) or rule.table in tables


def _may_match(facts: Facts, rule: Rule) -> bool:
    """Whether the rule may match packets of ours."""
    if rule.is_inverted:
        return True
    if rule.interface is not None and rule.interface not in facts.interfaces:
        return False
    return _overlaps(rule, facts.mark)


def _overlaps(rule: Rule, mark: int) -> bool:
    """Whether the rule matches any mark with our upper half."""
    return (rule.mark ^ mark) & rule.mask & HALF == 0


def _free_mark(facts: Facts) -> int:
    """A mark that no rule matches."""
    marked = [rule for rule in facts.rules if rule.mask and not rule.is_inverted]
    for upper in range(0x6F79, 0x1_0000):
        if not any(_overlaps(rule, upper << 16) for rule in marked):
            return upper << 16
    return facts.mark


def _text(rule: Rule) -> str:
    """The rule in the format of ip(8)."""
    parts = [f"{rule.priority}:", "not from all" if rule.is_inverted else "from ..." if rule.is_narrow else "from all"]
    parts += [f"fwmark {rule.mark:#x}/{rule.mask:#x}"] if rule.mask else []
    parts += [f"iif {rule.interface}"] if rule.interface else []
    tables = {RT_TABLE_MAIN: "lookup main", 0: "..."}
    return " ".join([*parts, tables.get(rule.table, f"lookup {rule.table}")])


def _reverse_path(facts: Facts) -> Iterator[Obstacle]:
    """Reverse path filters that would drop replies, as the main table routes their source by another interface."""
    everywhere = facts.sysctls.get("net/ipv4/conf/all/rp_filter", 0)
    for name in dict.fromkeys((*facts.bound, *facts.on_ramps)):
        strict = max(everywhere, facts.sysctls.get(f"net/ipv4/conf/{name}/rp_filter", 0)) == STRICT
        if strict and (prefix := _elsewhere(facts, name)) is not None:
            text = f"rp_filter is strict on {name}, and the main table leads to {prefix} by another interface: "
            text += "what arrives from there is dropped"
            yield Obstacle("rp_filter", text, f"sysctl -w net.ipv4.conf.{name}.rp_filter=2")


def _elsewhere(facts: Facts, name: str) -> str | None:
    """A prefix that is routed through this interface, but preferably through another one."""
    index = facts.indexes.get(name)
    main = [route for route in facts.routes if route.version == 4 and route.table == RT_TABLE_MAIN]
    for own in (route for route in main if route.index == index):
        for other in main:
            if other is own:
                break  # the first of equal routes is used
            if ip_network(other.prefix) == ip_network(own.prefix) and other.index != index:
                return own.prefix
    return None


def _conntrack(facts: Facts) -> Iterator[Obstacle]:
    if facts.conntrack is None:
        return
    count, most = facts.conntrack
    if most and count > FULL * most:
        text = f"conntrack's table is {count * 100 // most} % full: {count:,} of {most:,} connections"
        yield Obstacle("conntrack", text, f"sysctl -w net.netfilter.nf_conntrack_max={most * 2}")


def _forwarding(facts: Facts) -> Iterator[Obstacle]:
    off = [name for name in facts.interfaces if facts.sysctls.get(f"net/ipv4/conf/{name}/forwarding") == 0]
    if off:
        text = f"forwarding is off on {', '.join(off)}: the proxy switches it on there while it runs"
        yield Obstacle("forwarding", text, is_note=True)


def _advertised(facts: Facts) -> Iterator[Obstacle]:
    """Advertised default routes that would be lost: before Linux 6.17, IPv6 forwarding is on for all interfaces or
    none, and interfaces that forward ignore router advertisements."""
    if facts.sysctls.get("net/ipv6/conf/all/forwarding") or "net/ipv6/conf/all/force_forwarding" in facts.sysctls:
        return
    for name in facts.advertised:
        text = f"the IPv6 default route of {name} is a router's advertisement, which a host that forwards does not hear"
        yield Obstacle("IPv6", text, f"sysctl -w net.ipv6.conf.{name}.accept_ra=2")

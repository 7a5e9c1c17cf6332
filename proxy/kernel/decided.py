"""The table's sets of decided flows: their names and keys, and the rules that add to them.

An on-ramp has two for each IP version: `decided`, of flows that leave, and `inside`, of flows to and from other sites.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from proxy.settings.model import Timeouts

FAMILIES = ((4, "ip"), (6, "ip6"))
SIZE = 1_000_000  # flows that the kernel may carry by itself; further ones pass through the proxy
TCP_S, UDP_S, ENDED_S = 60, 30, 10  # at most; then one packet comes up, and the flow is added again

Names = Callable[[int, int], str]  # the name of a set, by the IP version and the number of the on-ramp


def decided(version: int, place: int) -> str:
    """The name of the set of this on-ramp's flows that the kernel may carry by itself."""
    return f"decided{version}_{place}"


def inside(version: int, place: int) -> str:
    """The name of the set for flows to and from other sites of its network."""
    return f"inside{version}_{place}"


def declarations(version: int, place: int) -> Iterator[str]:
    """The declarations of both sets."""
    kind = f"ipv{version}_addr . ipv{version}_addr . inet_proto . inet_service . inet_service"
    for name in (decided(version, place), inside(version, place)):
        yield f"set {name} {{ type {kind}; flags dynamic,timeout; size {SIZE}; }}"


def key(family: str) -> str:
    return f"{family} saddr . {family} daddr . meta l4proto . th sport . th dport"


def reply_key(family: str) -> str:
    """The key as seen in replies."""
    return f"{family} daddr . {family} saddr . meta l4proto . th dport . th sport"


def update_rules(place: int, flows: Names, key_of: Callable[[str], str], times: Timeouts) -> Iterator[str]:
    """Rules that add a packet's flow to a set, for no longer than conntrack keeps an idle one: an element that
    outlived its flow would let the next one pass undecided."""
    tcp_s, udp_s = min(TCP_S, times.tcp_idle_s, times.tcp_half_closed_s), min(UDP_S, times.udp_unreplied_s)
    kept = (
        ("tcp flags & (fin | rst) == 0", tcp_s), ("meta l4proto udp", min(udp_s, times.udp_idle_s)),
        ("udp dport 53", min(udp_s, times.dns_idle_s)), ("udp sport 53", min(udp_s, times.dns_idle_s)),
    )  # fmt: skip
    for version, family in FAMILIES:
        for which, kept_s in kept:
            update = f"update @{flows(version, place)} {{ {key_of(family)} timeout {max(1, int(kept_s))}s }}"
            yield f"meta nfproto ipv{version} {which} {update}"

"""Packets that the table of the kernel off-ramp and conntrack dropped, by the proxy's reasons."""

from __future__ import annotations

from collections import Counter

from proxy.errors import DropReason
from proxy.kernel import facts, nft

COUNTERS = {  # of the table, and what they mean for a packet
    "invalid": DropReason.CONNTRACK_INVALID,
    "to_host": DropReason.BAD_ADDRESS,
    "isolated": DropReason.BAD_ADDRESS,  # it would leave by another network's on-ramp
    "foreign": DropReason.UNSOLICITED,
}


def kernel_drops(table: str) -> Counter[DropReason]:
    """Of the table with this name; of conntrack's own count, what everybody lost."""
    found, drops = nft.counters(table), Counter({DropReason.CONNTRACK_FULL: facts.conntrack_drops()})
    for name, reason in COUNTERS.items():
        drops[reason] += found.get(name, 0)
    return drops

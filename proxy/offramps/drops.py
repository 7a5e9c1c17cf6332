"""Packets dropped by the kernel off-ramp's table and by conntrack, by the proxy's reasons."""

from __future__ import annotations

from collections import Counter

from proxy.errors import DropReason
from proxy.kernel import facts, nft

COUNTERS = {  # named counters of the table, with the reason of each
    "invalid": DropReason.CONNTRACK_INVALID,
    "to_host": DropReason.BAD_ADDRESS,
    "isolated": DropReason.BAD_ADDRESS,  # it would leave by another network's on-ramp
    "foreign": DropReason.UNSOLICITED,
}


def kernel_drops(table: str) -> Counter[DropReason]:
    """Drops counted by the table with this name, and by conntrack for all its users together."""
    found, drops = nft.counters(table), Counter({DropReason.CONNTRACK_FULL: facts.conntrack_drops()})
    for name, reason in COUNTERS.items():
        drops[reason] += found.get(name, 0)
    return drops

"""A kernel that has GRE tells no peer that ours is unreachable, although it has no device for its packets."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.agents.sites.world import CLIENT, CONTEXT, EDGE, SITE

pytestmark = [pytest.mark.kernel("GRE", "GRE over IPv6", "root", "/dev/net/tun"), pytest.mark.netns]

KINDS = {4: "gre", 6: "ip6gre"}


def unreachable(version):
    """Destination Unreachable messages that this namespace has received, over that family."""
    if version == 6:
        lines = Path("/proc/thread-self/net/snmp6").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith("Icmp6InDestUnreachs"))
    names, values = [
        line.split() for line in Path("/proc/thread-self/net/snmp").read_text().splitlines() if line.startswith("Icmp:")
    ]
    return int(values[names.index("InDestUnreachs")])


@pytest.mark.parametrize("outer", [4, 6])
def test_the_kernel_at_the_far_end_hears_of_no_refusal(world, outer):
    world.kernel_site(KINDS[outer], key=1)
    theirs = {"local": EDGE[outer], "remote": SITE[outer], "key": 1}
    world.start(world.entry("edge", gre=theirs, gue=world.to_proxy(CONTEXT)))
    host, proxy = world.host(4), world.proxy()

    def tell():
        host.sendto(b"x", (CLIENT[4], 7))
        proxy.receive()

    before = world.site.run(unreachable, outer)
    for _ in range(5):
        tell()
    assert world.site.run(unreachable, outer) == before
    family = "-4" if outer == 4 else "-6"
    world.edge.run(subprocess.run, ["ip", family, "rule", "del", "pref", "1"], check=True)
    tell()  # and this is what it would have heard
    assert world.site.run(unreachable, outer) == before + 1

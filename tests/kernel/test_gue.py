"""GUE of the kernel's own (FOU) at the site, without a context, and our agent's at the other end; both families."""

from __future__ import annotations

import pytest

from tests.agents.sites.world import EDGE, SITE
from tests.kernel.test_gre import exchange
from tests.kernel.world import GUE_PORT

pytestmark = [
    pytest.mark.kernel("FOU", "GUE", "GUE over IPv6", "root", "/dev/net/tun"),
    pytest.mark.netns,
]

KINDS = {4: "gue", 6: "gue6"}


def at(address):
    return f"[{address}]:{GUE_PORT}" if ":" in address else f"{address}:{GUE_PORT}"


@pytest.mark.parametrize(("outer", "version"), [(4, 0), (6, 0), (4, 1)])
def test_our_agent_at_the_site_and_the_kernel_at_the_edge(world, outer, version):
    """The kernel takes both versions of the header, and sends the first."""
    world.kernel_edge(KINDS[outer], port=GUE_PORT)
    ours = {"local": at(SITE[outer]), "remote": at(EDGE[outer]), "context": None, "version": version}
    agents = world.start(world.entry(device="tun0", gue=ours))
    for family in (4, 6):
        exchange(world.host(family), world.client(family), family, f"version {version} over {outer}")
    assert agents.drops() == {}
    assert agents.tunnel()["sent"]["packets"] == 2

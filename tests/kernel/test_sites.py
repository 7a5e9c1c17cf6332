"""A lab whose sites are connected by the kernel: GRE with a key and a checksum, and GUE, to the real proxy."""

from __future__ import annotations

import pytest

from oxyctl.topology.file import loads
from tests.kernel.labs import running

pytestmark = [
    pytest.mark.kernel("GRE", "GRE over IPv6", "FOU", "GUE", "root", "/dev/net/tun"),
    pytest.mark.netns,
]

LAB = """
name: sites
networks: {internet: {subnets: [10.50.0.0/24, "fd00:50::/64"]}}
defaults: {gre-site: {tenant: acme}, gue-site: {tenant: acme}}
nodes:
  edge: {kind: proxy, networks: [internet], tenants: {acme: {}}}
  berlin:
    kind: gre-site
    key: 42
    checksum: true
    lan: {ipv4: 10.1.0.0/24, ipv6: "fd00:10:1::/64"}
    hosts: {web: {services: [http], addresses: [10.1.0.10, "fd00:10:1::a"]}}
  lima:
    kind: gue-site
    lan: {ipv4: 10.3.0.0/24, ipv6: "fd00:10:3::/64"}
    hosts: {web: {services: [http], addresses: [10.3.0.10, "fd00:10:3::a"]}}
"""
# from berlin: a page over each family, more than one window, a packet that has to be cut, and what fits
ASK = """
for url in http://10.3.0.10/ 'http://[fd00:10:3::a]/'; do
  curl -sS -m 20 $url | sed -n 's/^client  *//p'
done
curl -sS -m 30 http://10.3.0.10/bytes/300000 | wc -c
ping -q -c2 -W5 -s 3000 10.3.0.10 | sed -n 's/.* \\([0-9]*\\) received.*/\\1/p'
tracepath -n -m6 10.3.0.10 | sed -n 's/.*Resume: pmtu \\([0-9]*\\).*/\\1/p'
"""


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    with running(loads(LAB, "sites"), tmp_path_factory.mktemp("kernel")) as lab:
        yield lab


def test_tunnels_of_the_kernel_carry_both_families_and_all_sizes(lab):
    status = lab.status()
    carried = {tunnel["site"]: (tunnel["by"], tunnel["edge"]) for tunnel in status["tunnels"]}
    assert carried == {"berlin": ("kernel", "kernel"), "lima": ("kernel", None)}
    mtu = min(tunnel["mtu"] for tunnel in status["tunnels"])
    lines = lab.exec("berlin-web", ASK).splitlines()
    assert lines == ["10.1.0.10", "fd00:10:1::a", "300000", "2", str(mtu)]

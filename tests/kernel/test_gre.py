"""GRE of the kernel's own at one end, our agent at the other: key, checksum, sequence, both families."""

from __future__ import annotations

import subprocess

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6

from proxy.wire.gue import Context
from tests.agents.sites.world import CLIENT, CONTEXT, EDGE, HOST, SITE, inner, text_of

pytestmark = [pytest.mark.kernel("GRE", "GRE over IPv6", "root", "/dev/net/tun"), pytest.mark.netns]

KINDS = {4: "gre", 6: "ip6gre"}
BARE, LAST, FIRST = {}, {"key": 4_294_967_295, "checksum": True}, {"key": 0, "checksum": True}


def exchange(near, far, version, text):
    """A datagram and its answer through the tunnel; `near` began."""
    near.sendto(text.encode(), (CLIENT[version], 7))
    data, sender = far.recvfrom(2000)
    assert (data, sender[0]) == (text.encode(), HOST[version])
    far.sendto(data.upper(), sender)
    assert near.recv(2000) == text.upper().encode()


def has_right_checksum(packet):
    """Of UDP, as scapy computes it: not the sum that a kernel leaves for the network card to finish."""
    found = (IP if packet[0] >> 4 == 4 else IPv6)(packet)
    del found[UDP].chksum
    return bytes(found) == packet


@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("options", [BARE, LAST], ids=str)
def test_the_kernel_at_the_site_and_our_agent_at_the_edge(world, outer, options):
    world.kernel_site(KINDS[outer], **options)
    theirs = {"local": EDGE[outer], "remote": SITE[outer]} | options
    agents = world.start(world.entry("edge", gre=theirs, gue=world.to_proxy(CONTEXT)))
    proxy = world.proxy()
    for version in (4, 6):
        host = world.host(version)
        for text in ("one", "two"):
            host.sendto(text.encode(), (CLIENT[version], 7))
            header, packet = proxy.receive()
            assert (header.context, text_of(packet)) == (Context(7, 1, b"secret"), text)
            assert has_right_checksum(packet)
            proxy.send(inner(version, text.upper()))
            assert host.recv(100) == text.upper().encode()
    assert agents.drops("edge") == {}
    assert agents.tunnel("edge")["received"]["packets"] == 4


@pytest.mark.parametrize(("outer", "options"), [(4, FIRST), (6, BARE), (6, LAST)], ids=str)
def test_our_agent_at_the_site_and_the_kernel_at_the_edge(world, outer, options):
    world.kernel_edge(KINDS[outer], **options)
    ours = {"local": SITE[outer], "remote": EDGE[outer]} | options
    agents = world.start(world.entry(device="tun0", gre=ours))
    for version in (4, 6):
        exchange(world.host(version), world.client(version), version, f"over {outer}")
    assert agents.drops() == {}


def test_the_kernel_takes_our_sequence_numbers_and_we_take_its(world):
    """`seq` on both sides: what is out of order, or has no number, is dropped."""
    ours = {"local": SITE[4], "remote": EDGE[4], "key": 7, "sequence": True}
    words = f"ip link add wan0 type gre local {EDGE[4]} remote {SITE[4]} key 7 seq"
    more = ["ip link set wan0 up", f"ip address add {CLIENT[4]} dev wan0", f"ip route add {HOST[4]} dev wan0"]
    for line in [words, *more]:
        world.edge.run(subprocess.run, line.split(), check=True)
    agents = world.start(world.entry(device="tun0", gre=ours))
    host, client = world.host(4), world.client(4)
    for text in ("one", "two", "three"):
        exchange(host, client, 4, text)
    assert agents.drops() == {}


def test_a_packet_with_another_key_is_refused_between_two_that_arrive(world):
    world.kernel_site("gre", key=42)
    theirs = {"local": EDGE[4], "remote": SITE[4], "key": 42}
    agents = world.start(world.entry("edge", gre=theirs, gue=world.to_proxy(CONTEXT)))
    host, proxy = world.host(4), world.proxy()

    def tell(key, text):
        line = f"ip link change wan0 type gre local {SITE[4]} remote {EDGE[4]} key {key}"
        world.site.run(subprocess.run, line.split(), check=True)
        host.sendto(text, (CLIENT[4], 7))

    for key, text in ((42, b"canary 1"), (43, b"bad"), (42, b"canary 2")):
        tell(key, text)
    assert [text_of(proxy.receive()[1]) for _ in range(2)] == ["canary 1", "canary 2"]
    assert agents.drops("edge") == {"gre_key": 1}

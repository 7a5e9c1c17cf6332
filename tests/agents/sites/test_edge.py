"""The edge's end: GRE of many sites into GUE for the proxy, and what the proxy returns into the right tunnel."""

from __future__ import annotations

import os
import socket
from ipaddress import ip_interface

import pytest
from scapy.layers.inet import ICMP, IP
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6
from scapy.layers.l2 import GRE
from scapy.packet import Raw

from oxyctl.net.netlink import add_address, run
from proxy.device.interface import bring_up
from proxy.wire import gue
from proxy.wire.gue import Context
from tests.agents.sites.world import (
    CLIENT,
    CONTEXT,
    EDGE,
    GUE_BACK,
    HOST,
    PROXY,
    SITE,
    eventually,
    inner,
    text_of,
)


def to_proxy(port=20_001, **context):
    return {"local": f"127.0.0.1:{port}", "remote": PROXY, "context": context or CONTEXT}


def both_ends(world, outer=4, **options):
    """The site's end and the edge's, of one GRE tunnel."""
    ours = {"local": SITE[outer], "remote": EDGE[outer]} | options
    theirs = {"local": EDGE[outer], "remote": SITE[outer]} | options
    return [world.entry(device="tun0", gre=ours), world.entry("edge", gre=theirs, gue=to_proxy())]


@pytest.mark.parametrize("options", [{}, {"key": 42, "checksum": True, "sequence": True}], ids=["bare", "all"])
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("version", [4, 6])
def test_packets_of_a_site_reach_the_proxy_with_their_context_and_come_back(world, version, outer, options):
    host, proxy = world.host(version), world.proxy()
    agents = world.start(*both_ends(world, outer, **options))
    for number in range(3):
        host.sendto(b"up %d" % number, (CLIENT[version], 7))
        header, packet = proxy.receive()
        assert header.context == Context(7, 1, b"secret")
        assert text_of(packet) == f"up {number}"
        proxy.send(inner(version, f"down {number}"))
        assert host.recv(100) == b"down %d" % number
    for end, kind in (("site", "device+gre"), ("edge", "gre+gue")):
        status = agents.tunnel(end)
        assert (status["kind"], status["drops"]) == (kind, {})
        assert status["sent"] == status["received"] | {"bytes": status["sent"]["bytes"]}
        assert status["sent"]["packets"] == 3


def test_a_host_opens_a_tcp_connection_across_both_ends(world):
    """Bulk of a real TCP, whose packets the socket in the proxy's place sends back as they came."""
    agents = world.start(*both_ends(world))
    proxy = world.proxy()
    listener = world.socket(world.site, socket.AF_INET, socket.SOCK_STREAM, bind=(HOST[4], 80))
    listener.listen()
    dialler = world.socket(world.site, socket.AF_INET, socket.SOCK_STREAM, bind=(HOST[4], 0))
    dialler.setblocking(False)
    dialler.connect_ex((CLIENT[4], 80))
    reflector = Reflector(proxy)
    data = os.urandom(200_000)
    reflector.until(lambda: _accepted(listener), "the connection")
    accepted = reflector.result
    accepted.setblocking(False)
    received, left = b"", memoryview(data)
    while len(received) < len(data):
        reflector.turn()
        try:
            left = left[dialler.send(left) :] if left else left
        except BlockingIOError:
            pass
        try:
            received += accepted.recv(65_536)
        except BlockingIOError:
            pass
    accepted.close()
    assert received == data
    assert agents.drops("edge") == agents.drops("site") == {}
    assert max(proxy.sizes) > 1  # runs


class Reflector:
    """Sends every packet back with source and destination exchanged by NAT: from `HOST` to `CLIENT` and vice versa."""

    def __init__(self, proxy):
        self.proxy, self.result = proxy, None

    def turn(self):
        while not self.proxy.is_silent():
            _, packet = self.proxy.receive()
            self.proxy.send(packet[:12] + packet[16:20] + packet[12:16] + packet[20:])  # sums stay the same

    def until(self, is_so, what):
        def turned():
            self.turn()
            self.result = is_so()
            return self.result

        eventually(turned, what)


def _accepted(listener):
    listener.setblocking(False)
    try:
        return listener.accept()[0]
    except BlockingIOError:
        return None


def test_each_site_has_its_context_and_gets_its_own_answers(world):
    """Twenty sites behind one edge: four peers with five keys each, all with the same inner addresses."""
    peers = [f"10.50.0.{number}" for number in range(101, 105)]
    raws = {}
    for peer in peers:
        raws[peer] = world.socket(world.site, socket.AF_INET, socket.SOCK_RAW, 47)
        world.site.run(_add_address, f"{peer}/24")
        raws[peer].bind((peer, 0))
    sites = {(peer, key): number for number, (peer, key) in enumerate((p, k) for p in peers for k in range(5))}
    entries = []
    for (peer, key), number in sites.items():
        gre = {"local": EDGE[4], "remote": peer, "key": key}
        port = 20_001 if number % 2 else 20_100 + number  # one endpoint for many, and one of its own
        sides = {"gre": gre, "gue": to_proxy(port, tenant=number // 10, site=number)}
        entries.append(world.entry("edge", node=f"site{number}", **sides))
    proxy = world.proxy()
    agents = world.start(*entries)
    for (peer, key), number in sites.items():
        packet = inner(4, f"from {number}", back=True)
        raws[peer].sendto(bytes(GRE(proto=0x0800, key_present=1, key=key) / Raw(packet)), (EDGE[4], 0))
        header, packet = proxy.receive()
        assert (header.context.tenant, header.context.site) == (number // 10, number)
        assert text_of(packet) == f"from {number}"
        port = 20_001 if number % 2 else 20_100 + number
        proxy.send(inner(4, f"to {number}"), gue.header(4, Context(number // 10, number)), f"127.0.0.1:{port}")
        answer = raws[peer].recv(2000)
        assert GRE(answer[20:]).key == key
        assert text_of(answer[28:]) == f"to {number}"
    wrong = gue.header(4, Context(1, 1))  # the site of another tenant
    proxy.send(inner(4, "bad"), wrong)
    eventually(lambda: agents.stray() == [{"foreign_tenant": 1}], "the drop of the foreign context")
    assert {each["received"]["packets"] for each in agents.status()["tunnels"]} == {1}


def test_a_device_that_the_kernels_tunnel_is_routed_into_is_wrapped_alike(world):
    proxy = world.proxy()
    agents = world.start(world.entry("edge", device="e1", gue=to_proxy()))
    world.edge.run(bring_up, "e1", mtu=1476, addresses=["10.99.0.1/24"])
    sender = world.socket(world.edge, socket.AF_INET, socket.SOCK_DGRAM, bind=("10.99.0.1", 5000))
    sender.sendto(b"up", ("10.99.0.2", 7))
    header, packet = next(each for each in iter(proxy.receive, None) if each[1][0] == 0x45)  # no neighbour discovery
    assert (header.context.tenant, text_of(packet)) == (7, "up")
    proxy.send(_swapped(packet))
    assert sender.recv(100) == b"up"
    assert agents.tunnel("edge")["kind"] == "device+gue"


def _swapped(packet):
    head = packet[:12] + packet[16:20] + packet[12:16]
    return head + packet[22:24] + packet[20:22] + packet[24:]


@pytest.mark.parametrize("version", [4, 6])
def test_what_is_too_big_for_the_sites_tunnel_is_answered_towards_the_proxy(world, version):
    host, proxy = world.host(version), world.proxy()
    agents = world.start(*both_ends(world))
    flags = {"flags": "DF"} if version == 4 else {}
    big = inner(version, bytes(1477 - (28 if version == 4 else 48)), **flags)
    proxy.send(big)
    header, answer = proxy.receive()
    assert header.context == Context(7, 1, b"secret")
    if version == 4:
        error = IP(answer)
        assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1476)
    else:
        error = IPv6(answer)
        assert error[ICMPv6PacketTooBig].mtu == 1476
    assert (error.src, error.dst) == (HOST[version], CLIENT[version])
    proxy.send(big[:-1] if version == 6 else inner(4, bytes(1476 - 28), **flags))
    proxy.send(inner(version, "canary"))
    if version == 4:
        assert len(host.recv(2000)) == 1448
    assert host.recv(2000) == b"canary"
    assert agents.drops("edge") == {"too_big": 1}


def test_a_big_packet_without_df_crosses_in_outer_fragments(world):
    host, proxy = world.host(4), world.proxy()
    agents = world.start(*both_ends(world, key=1, checksum=True))
    proxy.send(inner(4, "x" * 4000))
    assert host.recv(5000) == b"x" * 4000
    assert agents.drops("edge") == {}


def test_no_error_is_sent_about_errors_fragments_and_multicast(world):
    host, proxy = world.host(4), world.proxy()
    agents = world.start(*both_ends(world))
    error = IP(src=CLIENT[4], dst=HOST[4], flags="DF") / ICMP(type=3, code=4) / Raw(bytes(1500))
    multicast = IP(src=CLIENT[4], dst="224.0.0.9", flags="DF") / Raw(bytes(1500))
    later = IP(src=CLIENT[4], dst=HOST[4], flags="DF", frag=9) / Raw(bytes(1500))
    for packet in (error, multicast, later):
        proxy.send(packet)
    proxy.send(inner(4, "canary"))
    assert host.recv(100) == b"canary"
    assert agents.drops("edge") == {"too_big": 3}
    host.sendto(b"next", (CLIENT[4], 7))
    assert text_of(proxy.receive()[1]) == "next"


def test_nothing_that_the_proxy_may_not_send_reaches_a_site(world):
    host, proxy = world.host(4), world.proxy()
    agents = world.start(*both_ends(world))
    proxy.send(inner(4, "canary 1"))
    proxy.send(inner(4, "bad"), gue.header(4, Context(7, 1, b"guess")))
    proxy.send(inner(4, "bad"), gue.header(4, Context(7, 2, b"secret")))
    proxy.send(inner(4, "bad"), gue.header(4))
    proxy.send(IP(src=CLIENT[4], dst=SITE[4]) / Raw(bytes(40)), GUE_BACK[4])
    proxy.send(inner(4, "canary 2"))
    assert [host.recv(100), host.recv(100)] == [b"canary 1", b"canary 2"]
    assert agents.drops("edge") == {"bad_token": 1, "foreign_tenant": 1, "context_missing": 1, "tunnel_loop": 1}


def _add_address(text):
    run([add_address(12, ip_interface(text))])

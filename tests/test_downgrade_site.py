"""Flows to a site behind GUE at level stream: what the site gets are the client's own packets.

client --(SEQPACKET)--> proxy: kernel's TCP, relay, kernel's TCP --(GUE)--> 10.50.0.10: the site's router
"""

from __future__ import annotations

import socket

import pytest
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig
from scapy.packet import Raw

from proxy.wire import gue
from tests.netns import Laptop, Namespace, needs_root
from tests.packet.script import describe
from tests.packets import network
from tests.running import ORIGIN, PATIENCE_S, Client, staged, until
from tests.test_downgrade import HEADERS, Ends, datagram, exchange, last

pytestmark = [pytest.mark.netns, needs_root]
FAMILIES = pytest.mark.parametrize("version", [4, 6])
MODES = pytest.mark.parametrize("offload", [0, 1], ids=["plain", "offload"])
ROUTER = {4: "192.0.2.77", 6: "2001:db8::77"}  # of the site, outside the prefixes that it may send from
MTU = 1400
CONFIGURATION = """
node: edge
tenants:
  acme:
    prefixes: [100.96.0.0/12, "fd00:96::/32"]
    networks:
      default:
        routes:
          - {prefix: 10.1.0.0/24, via: "site:berlin", level: stream}
          - {prefix: "fd00:10:1::/64", via: "site:berlin", level: stream}
onramps:
  - {kind: connected, path: ramp.sock}
  - kind: gue
    listen: 10.50.0.1:6080
    sites:
      - name: berlin
        tenant: acme
        peers: ["10.50.0.10:6080"]
        prefixes: [10.1.0.0/24, "fd00:10:1::/64"]
        context: none
        mtu: 1400
timeouts: {connect_s: 4, context_s: 2}
"""


class Site(Client):
    """The far end of the GUE tunnel, and every host behind it."""

    head = b""

    def __init__(self, stage):
        self.sock = stage.origin.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.settimeout(PATIENCE_S)
        self.sock.bind((ORIGIN[4], 6080))
        self.addresses = {4: "10.1.0.2", 6: "fd00:10:1::2"}

    def send(self, *packets):
        for packet in packets:
            self.sock.sendto(gue.header(packet[0] >> 4) + packet, ("10.50.0.1", 6080))

    def receive(self):
        datagram = self.sock.recv(70_000)
        found = gue.parse(datagram, 0, len(datagram))
        assert isinstance(found, gue.Gue), found
        return datagram[found.length :]


class Adapter:
    """The site's tunnel as a socket of bare packets."""

    def __init__(self, site):
        self.send, self.close = site.send, lambda: None
        self.fileno, self.setblocking = site.sock.fileno, site.sock.setblocking
        self._receive = site.receive

    def recv(self, size):
        return self._receive()


class Host(Laptop):
    """A host of the site, with a kernel of its own."""

    def __init__(self, site):
        Namespace.__init__(self)
        self.attach(Adapter(site), list(site.addresses.values()), mtu=MTU, offload=False)


@pytest.fixture(scope="module")
def running():
    with staged(configuration=CONFIGURATION) as stage:
        yield stage


@pytest.fixture
def site(running):
    made = Site(running)
    yield made
    made.close()


@pytest.fixture
def stage(running):
    yield running
    running.after_test()


@FAMILIES
@MODES
def test_connection_to_a_site_from_syn_to_fin(stage, site, version, offload):
    ends = Ends(stage, version, near_offload=offload, far=site)
    syn = ends.syn()
    assert (syn.src, syn.dst, syn[TCP].sport) == (ends.here, ends.there, 40_000)
    assert dict(syn[TCP].options)["MSS"] == MTU - HEADERS[version]
    to_far = syn[TCP].seq + 1
    ends.reply("SA", seq=5000, ack=to_far, options=[("MSS", 1460)])
    assert site.packet()[TCP].flags == "A"
    to_near = ends.near.packet()[TCP].seq + 1
    ends.say("A", seq=1001, ack=to_near)
    ends.say("PA", seq=1001, ack=to_near, payload=b"question")
    assert ends.near.packet()[TCP].ack == 1009
    assert bytes(site.packet()[TCP].payload) == b"question"
    ends.reply("PA", seq=5001, ack=to_far + 8, payload=b"answer")
    assert site.packet()[TCP].ack == 5007
    assert bytes(ends.near.packet()[TCP].payload) == b"answer"
    ends.say("R", seq=1009, ack=to_near + 6)
    assert "R" in site.packet()[TCP].flags
    record = last(stage, ends)
    assert (record.level, record.offramp, record.close_reason) == ("stream", "tunnel", "client_reset")


@FAMILIES
@MODES
def test_refusal_by_a_host_of_the_site_is_the_clients(stage, site, version, offload):
    ends = Ends(stage, version, near_offload=offload, far=site)
    syn = ends.syn()
    ends.reply("RA", seq=0, ack=syn[TCP].seq + 1)
    assert describe(ends.near.receive()) == f"{ends.there} > {ends.here} TCP RA seq 0 ack 1001"
    assert last(stage, ends).close_reason == "origin_refused"


@FAMILIES
@MODES
def test_error_of_the_sites_router_names_it(stage, site, version, offload):
    ends = Ends(stage, version, near_offload=offload, far=site)
    unreachable = ICMP(type=3, code=1) if version == 4 else ICMPv6DestUnreach(code=3)
    site.send(bytes(network(version, ROUTER[version], ends.here) / unreachable / Raw(bytes(ends.syn()))))
    said = "ICMP 3/1" if version == 4 else "ICMPv6 1/3"
    assert describe(ends.near.receive()) == f"{ROUTER[version]} > {ends.here} {said} about {ends.there}"
    assert last(stage, ends).close_reason == "origin_unreachable"


@FAMILIES
def test_smaller_link_inside_the_site_is_heard(stage, site, version):
    mtu, ends = 1290, Ends(stage, version, near_mtu=1480, far=site)
    to_near, to_far = ends.establish()
    ends.say("PA", seq=1001, ack=to_near, payload=bytes(1320))
    full = site.packet()
    assert len(bytes(full)) > mtu
    too_big = ICMP(type=3, code=4, nexthopmtu=mtu) if version == 4 else ICMPv6PacketTooBig(mtu=mtu)
    site.send(bytes(network(version, ROUTER[version], ends.here) / too_big / Raw(bytes(full))))
    missing = set(range(to_far, to_far + 1320))
    while missing:
        again = site.packet()
        if len(bytes(again)) <= mtu:
            missing -= set(range(again[TCP].seq, again[TCP].seq + len(again[TCP].payload)))


@FAMILIES
@MODES
def test_bulk_both_ways_with_a_host_of_the_site_arrives_as_it_was_sent(stage, site, version, offload):
    near, host = stage.laptop(offload=bool(offload)), Host(site)
    try:
        assert exchange(near, host, version) == 2
    finally:
        host.close()
    (record,) = until(lambda: stage.ended(src=near.addresses[version], dst=site.addresses[version]))
    assert (record.total.client_payload_bytes, record.total.origin_payload_bytes) == (3 << 20, 3 << 20)
    assert (record.offramp, record.offramp_tunnel, record.level) == ("tunnel", "site:berlin", "stream")


@FAMILIES
@MODES
def test_datagrams_cross_both_ways(stage, site, version, offload):
    ends = Ends(stage, version, near_offload=offload, far=site)
    ends.near.send(datagram(ends.near, version, ends.there, b"question"))
    there = site.packet()
    assert (there.src, there[UDP].sport, bytes(there[UDP].payload)) == (ends.here, 40_000, b"question")
    site.send(datagram(site, version, ends.here, b"answer", sport=53, dport=40_000))
    assert bytes(ends.near.packet()[UDP].payload) == b"answer"

"""UDP sessions between two tunnels in memory: what goes in at one comes out at the other, checked and made anew."""

from __future__ import annotations

import time

import pytest
from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig
from scapy.packet import Raw

from proxy.device.memory import MemoryTunnel
from proxy.errors import DropReason
from proxy.flow.fragments import Fragments
from proxy.hooks import HookRunner, Hooks
from proxy.packet.icmp_errors import IcmpErrors
from proxy.settings.model import Timeouts
from proxy.stream.datagrams import DatagramPlane
from proxy.stream.descriptors import Descriptors
from proxy.stream.lifecycle import Lifecycle
from proxy.stream.udp import UdpSession
from proxy.stream.udp_tunnel import UdpTunnelSession
from proxy.wire import virtio
from proxy.wire.checksum import pseudo_header_sum
from tests.flows import make_flow, make_tenant, make_tunnel
from tests.loops import running
from tests.packet.script import describe
from tests.packets import CLIENT, ORIGIN, decode, network, pack, parsed, recomputed

FAMILIES = pytest.mark.parametrize("version", [4, 6])
MODES = pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])
HEADERS = {4: 28, 6: 48}
ROUTER = {4: "192.0.2.1", 6: "2001:db8::1"}


class Scene:
    """A client's tunnel, a site's, and a session between them."""

    def __init__(self, loop, version, *, client=False, site=False, mtu=1280, site_mtu=1280, timeouts=None):
        self.version = version
        tenant = make_tenant()
        self.client = make_tunnel(tenant, offload=client, mtu=mtu)
        self.site = MemoryTunnel(tenant, list(ORIGIN.values()), offload=site, mtu=site_mtu, tunnel_id="site")
        self.lifecycle = Lifecycle("edge", HookRunner(Hooks()), Descriptors(10))
        self.records = []
        self.lifecycle.subscribe(self.records.append)
        plane = DatagramPlane(
            UdpSession, loop.poller, self.lifecycle, IcmpErrors(), timeouts or Timeouts(), udp_offload=True
        )
        self.flow = make_flow(
            tenant, version=version, protocol="udp", destination_port=53, carrier=self.client, now=time.monotonic()
        )
        self.flow.egress = self.site
        self.session = UdpTunnelSession(plane, self.flow)

    def open(self, packet=None):
        held = bytearray(self.client.header_bytes) + (packet or question(self.version))
        what = parsed(held, self.client.header_bytes)
        self.lifecycle.begin(self.flow, self.session, lambda: self.session.start(bytes(held), what))
        return self

    def give(self, carrier, packet, header=None):
        """A packet from `carrier`, on the memoised path."""
        v = carrier.header_bytes
        buffer = bytearray((bytes(v) if header is None else header) + packet)
        key = packet[12:24] if self.version == 4 else packet[8:44]
        return carrier.sessions[key](buffer, v + HEADERS[self.version] - 8, len(buffer))

    def give_whole(self, carrier, packet):
        """A packet that the packet plane has checked, or put together."""
        buffer = bytearray(carrier.header_bytes) + packet
        what = parsed(buffer, carrier.header_bytes)
        what.dont_fragment = False
        return self.session.packet(carrier, buffer, what)

    def report(self, carrier, message, about):
        """An ICMP error from a router behind `carrier`."""
        about = decode(about)
        raw = bytes(network(self.version, ROUTER[self.version], about.src) / message / Raw(bytes(about)))
        buffer = bytearray(carrier.header_bytes) + raw
        return self.session.error(carrier, buffer, parsed(buffer, carrier.header_bytes))


@pytest.fixture
def scene():
    with running() as loop:
        made = []

        def make(version, **options):
            made.append(Scene(loop, version, **options))
            return made[-1]

        yield make
        for each in made:
            each.session.end("drain")
            assert [record.event for record in each.records][-1] == "end"
            assert (each.client.sessions, each.site.sessions) == ({}, {})
            assert list(each.flow.tenant.live()) == []


def question(version, payload=b"question", **fields):
    return recomputed(bytes(network(version, **fields) / UDP(sport=40_000, dport=53) / Raw(payload)))


def answer(version, payload=b"answer", **fields):
    head = network(version, ORIGIN[version], CLIENT[version], **fields)
    return recomputed(bytes(head / UDP(sport=53, dport=40_000) / Raw(payload)))


def a_hop_later(packet):
    decoded = decode(packet)
    if decoded.version == 4:
        decoded.ttl -= 1
    else:
        decoded.hlim -= 1
    return recomputed(bytes(decoded))


def partial(packet, version, segment=0):
    """The packet as a device with offload hands it over, and the header before it."""
    l4 = HEADERS[version] - 8
    what = decode(packet)
    field = pseudo_header_sum(pack(what.src) + pack(what.dst), 17, len(packet) - l4)
    return virtio.udp_header(l4, segment), packet[: l4 + 6] + field.to_bytes(2, "big") + packet[l4 + 8 :]


@FAMILIES
@pytest.mark.parametrize("client", [False, True], ids=["plain", "offload"])
@pytest.mark.parametrize("site", [False, True], ids=["to-plain", "to-offload"])
def test_datagrams_cross_both_ways_a_hop_later_with_the_marks_they_had(scene, version, client, site):
    tos = {"tos": 0xB9} if version == 4 else {"tc": 0xB9}
    s = scene(version, client=client, site=site)
    first, more, reply = question(version, ttl=9), question(version, b"more", **tos), answer(version, ttl=60, **tos)
    s.open(first)
    assert s.give(s.client, more) is None
    assert s.give(s.site, reply) is None
    expected = [a_hop_later(packet) for packet in (first, more)]
    sent = s.site.take()
    assert [recomputed(packet) for packet in sent] == expected
    if not site:
        assert sent == expected  # with full checksums
    assert [recomputed(packet) for packet in s.client.take()] == [a_hop_later(reply)]
    assert (s.flow.level, s.flow.egress_ip, s.flow.state) == ("stream", CLIENT[version], "established")
    total = s.flow.totals()
    assert (total.client_packets, total.client_payload_bytes) == (2, 12)
    assert (total.origin_packets, total.origin_payload_bytes) == (1, 6)


@FAMILIES
def test_partial_checksum_is_finished_for_a_tunnel_without_offload(scene, version):
    s = scene(version, client=True).open()
    header, packet = partial(question(version, b"abc"), version)
    assert s.give(s.client, packet, header) is None
    assert s.site.take()[-1] == a_hop_later(question(version, b"abc"))


@FAMILIES
def test_super_datagram_passes_whole_where_it_can_and_in_parts_where_not(scene, version):
    payload = bytes(range(256)) * 10
    header, packet = partial(question(version, payload), version, 1000)
    plain = scene(version, client=True).open()
    assert plain.give(plain.client, packet, header) is None
    parts = plain.site.take()[1:]
    assert [bytes(decode(part)[UDP].payload) for part in parts] == [payload[:1000], payload[1000:2000], payload[2000:]]
    assert all(recomputed(part) == part for part in parts)
    if version == 4:
        assert [decode(part).id for part in parts] == [1, 2, 3]
    whole = scene(version, client=True, site=True).open()
    whole.site.sent.clear()
    assert whole.give(whole.client, packet, header) is None
    (sent,) = whole.site.sent
    assert (virtio.gso_size(sent), len(sent)) == (1000, 10 + HEADERS[version] + len(payload))
    assert whole.flow.totals().client_packets == 4


@FAMILIES
@MODES
def test_datagram_that_may_not_be_cut_is_answered_with_the_tunnels_mtu(scene, version, offload):
    fields = {"flags": "DF"} if version == 4 else {}
    s = scene(version, client=offload, site=offload, mtu=1500, site_mtu=1300).open()
    s.site.take()
    big = question(version, bytes(1400), **fields)
    assert s.give(s.client, big) is DropReason.TOO_BIG
    (error,) = [decode(packet) for packet in s.client.take()]
    assert (error[ICMP].nexthopmtu if version == 4 else error[ICMPv6PacketTooBig].mtu) == 1300
    assert s.site.take() == []
    assert s.give(s.client, question(version, bytes(1300 - HEADERS[version]), **fields)) is None
    assert [len(packet) for packet in s.site.take()] == [1300]


@FAMILIES
@MODES
def test_datagram_that_was_put_together_is_cut_for_the_tunnel(scene, version, offload):
    s = scene(version, site=offload).open()
    s.site.take()
    payload = bytes(range(256)) * 12
    assert s.give_whole(s.client, question(version, payload, **({"id": 77} if version == 4 else {}))) is None
    pieces = s.site.take()
    assert len(pieces) == 3
    assert max(map(len, pieces)) <= 1280
    fragments = Fragments(timeout_s=15, max_bytes=100_000)
    *_, joined = [fragments.add(bytearray(piece), parsed(piece), 0) for piece in pieces]
    assert bytes(decode(joined)[UDP].payload) == payload
    assert recomputed(joined) == joined
    if version == 4:
        assert {decode(piece).id for piece in pieces} == {77}


BAD = {
    "checksum": (lambda packet: packet[:-1] + b"!", DropReason.BAD_L4_CHECKSUM),
    "hops": (lambda packet: a_hop_later(packet), DropReason.TTL_EXPIRED),
}


@FAMILIES
@pytest.mark.parametrize("name", BAD)
def test_bad_datagrams_go_no_further(scene, version, name):
    change, reason = BAD[name]
    s = scene(version).open()
    s.site.take()
    assert s.give(s.client, change(question(version, ttl=2))) is reason
    assert s.site.take() == []
    assert s.give(s.client, question(version)) is None
    assert len(s.site.take()) == 1
    if name == "hops":
        kind = "ICMP 11/0" if version == 4 else "ICMPv6 3/0"
        assert [describe(packet).partition(" > ")[2] for packet in s.client.take()] == [
            f"{CLIENT[version]} {kind} about {ORIGIN[version]}"
        ]


@FAMILIES
def test_error_from_the_site_reaches_the_client_from_whoever_sent_it(scene, version):
    s = scene(version).open()
    (sent,) = s.site.take()
    unreachable = ICMP(type=3, code=3) if version == 4 else ICMPv6DestUnreach(code=4)
    assert s.report(s.site, unreachable, sent) is None
    kind = "ICMP 3/3" if version == 4 else "ICMPv6 1/4"
    expected = f"{ROUTER[version]} > {CLIENT[version]} {kind} about {ORIGIN[version]}"
    assert [describe(packet) for packet in s.client.take()] == [expected]


@FAMILIES
def test_error_from_the_client_reaches_the_site(scene, version):
    s = scene(version).open()
    s.give(s.site, answer(version))
    (sent,) = s.client.take()
    s.site.take()
    unreachable = ICMP(type=3, code=3) if version == 4 else ICMPv6DestUnreach(code=4)
    assert s.report(s.client, unreachable, sent) is None
    assert describe(s.site.take()[0]).endswith(f"about {CLIENT[version]}")


@FAMILIES
def test_smaller_link_behind_the_tunnel_is_told_and_remembered(scene, version):
    s = scene(version, site_mtu=1500, mtu=1500).open()
    s.site.take()
    s.give_whole(s.client, question(version, bytes(1400)))
    (sent,) = s.site.take()
    too_big = ICMP(type=3, code=4, nexthopmtu=1300) if version == 4 else ICMPv6PacketTooBig(mtu=1300)
    s.report(s.site, too_big, sent)
    (error,) = [decode(packet) for packet in s.client.take()]
    assert (error[ICMP].nexthopmtu if version == 4 else error[ICMPv6PacketTooBig].mtu) == 1300
    s.give_whole(s.client, question(version, bytes(1400)))
    assert max(len(packet) for packet in s.site.take()) <= 1300


@FAMILIES
def test_session_without_an_answer_ends_after_its_time(scene, version):
    s = scene(version, timeouts=Timeouts(udp_unreplied_s=4)).open()
    for ahead in (1.5, 3, 4.5, 6, 7.5):  # the first sees the question move
        assert not s.flow.is_ended
        s.lifecycle.tick(time.monotonic() + ahead)
    assert s.flow.close_reason == "client_idle_timeout"

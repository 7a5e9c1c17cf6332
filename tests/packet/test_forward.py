"""What becomes of one packet between two tunnels: hops, sizes, MSS, fragments, and what ICMP errors quote."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPOption_NOP, IPOption_Router_Alert
from scapy.layers.inet6 import ICMPv6PacketTooBig, IPv6ExtHdrFragment
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.flow.fragments import Fragments
from proxy.packet.forward import forward, quoted_key, take_hops
from proxy.wire import icmp
from tests.flows import make_tenant, make_tunnel
from tests.packets import CLIENT, ORIGIN, decode, network, pack, parsed, ping_packet, recomputed, tcp_packet, udp_packet

FAMILIES = pytest.mark.parametrize("version", [4, 6])


def pass_on(packet, *, mtu=1280, arrival_mtu=9000, offload=False, fragment=None):
    tenant = make_tenant()
    arrival = make_tunnel(tenant, mtu=arrival_mtu)
    egress = make_tunnel(tenant, mtu=mtu, offload=offload, tunnel_id="memory-2")
    buffer = bytearray(packet)
    found = parsed(buffer)
    if fragment is not None:
        found.dont_fragment = fragment
    return forward(buffer, found, arrival, egress, found.fragment_id if found.version == 4 else 5)


def later(packet):
    decoded = decode(packet)
    if decoded.version == 4:
        decoded.ttl -= 1
    else:
        decoded.hlim -= 1
    return recomputed(bytes(decoded))


@given(st.sampled_from([4, 6]), st.integers(2, 255), st.integers(0, 255), st.integers(0, 65_535))
def test_one_hop_less_and_nothing_else(version, ttl, tos, ident):
    fields = {"tos": tos, "id": ident} if version == 4 else {"tc": tos, "fl": ident}
    packet = bytes(network(version, ttl=ttl, **fields) / UDP(sport=1, dport=2) / Raw(b"data"))
    buffer = bytearray(packet)
    take_hops(buffer, parsed(buffer), 1)
    assert bytes(buffer) == later(packet)
    assert pass_on(packet) == [later(packet)]
    assert pass_on(packet, offload=True) == [bytes(10) + later(packet)]


@FAMILIES
@pytest.mark.parametrize("flags", ["S", "SA"])
def test_mss_is_what_both_tunnels_take(version, flags):
    headers = 40 if version == 4 else 60
    packet = tcp_packet(version, flags=flags, options=[("MSS", 8960)])
    for mtu, arrival_mtu, wanted in ((1400, 1300, 1300), (1300, 1400, 1300), (9100, 9200, 9100)):
        (out,) = pass_on(packet, mtu=mtu, arrival_mtu=arrival_mtu)
        assert recomputed(out) == out
        assert dict(decode(out)[TCP].options)["MSS"] == min(wanted - headers, 8960)
    (out,) = pass_on(tcp_packet(version, flags="A", options=[("MSS", 8960)]))
    assert dict(decode(out)[TCP].options)["MSS"] == 8960


@FAMILIES
def test_packet_of_exactly_the_mtu_passes_and_one_byte_more_is_too_big(version):
    headers = 28 if version == 4 else 48
    fields = {"flags": "DF"} if version == 4 else {}
    for size, fits in ((1280, True), (1281, False)):
        packet = bytes(network(version, **fields) / UDP() / Raw(bytes(size - headers)))
        out = pass_on(packet)
        assert out == ([later(packet)] if fits else DropReason.TOO_BIG)
        assert len(packet) == size


@FAMILIES
def test_what_may_be_fragmented_is_and_joins_again(version):
    packet = udp_packet(version, bytes(range(256)) * 12, ttl=9)
    pieces = pass_on(packet, fragment=False)
    assert len(pieces) == 3
    assert max(map(len, pieces)) <= 1280
    fragments = Fragments(timeout_s=9, max_bytes=1 << 20)
    joined = [fragments.add(piece, parsed(piece), 0) for piece in pieces][-1]
    assert joined == later(packet)
    if version == 4:
        assert {decode(piece).id for piece in pieces} == {1}
    else:
        assert {decode(piece)[IPv6ExtHdrFragment].id for piece in pieces} == {5}


def test_fragments_keep_the_options_that_belong_to_each():
    head = IP(src=CLIENT[4], dst=ORIGIN[4], options=[IPOption_NOP(), IPOption_Router_Alert()])
    packet = bytes(head / UDP(sport=1, dport=2) / Raw(bytes(3000)))
    pieces = pass_on(packet)
    assert all(isinstance(parsed(piece).l4, int) for piece in pieces)  # header lengths and checksums are right
    assert [[type(each) for each in decode(piece).options][:2] for piece in pieces[1:]] == [[IPOption_Router_Alert]] * 2
    assert decode(pieces[0]).options[0] == IPOption_NOP()
    fragments = Fragments(timeout_s=9, max_bytes=1 << 20)
    assert [fragments.add(piece, parsed(piece), 0) for piece in pieces][-1][24 + 4 :] == packet[28:]


def error(version, quoted, size=None):
    message = ICMP(type=3, code=3) if version == 4 else ICMPv6PacketTooBig()
    return bytes(network(version, ORIGIN[version], CLIENT[version]) / message / Raw(quoted[:size]))


@FAMILIES
@pytest.mark.parametrize("make", [tcp_packet, udp_packet, ping_packet])
def test_quoted_packet_is_known_by_its_key(version, make):
    packet = make(version)
    found = parsed(packet)
    headers = 20 if version == 4 else 40
    tail = packet[found.l4 + 4 : found.l4 + 6] if make is ping_packet else packet[found.l4 : found.l4 + 4]
    wanted = found.protocol, pack(CLIENT[version]) + pack(ORIGIN[version]) + tail
    for size in (None, headers + 8):
        report = error(version, packet, size)
        assert quoted_key(report, parsed(report)) == wanted
    report = error(version, packet, headers + 3)
    assert quoted_key(report, parsed(report)) is None


@given(st.sampled_from([4, 6]), st.binary(max_size=80))
def test_any_quote_is_a_key_or_none(version, quoted):
    report = error(version, quoted)
    found = quoted_key(report, parsed(report))
    assert found is None or len(found[1]) == {6: 12, 17: 12, 1: 10, 58: 34}[found[0]] + (
        24 if version == 6 and found[0] != 58 else 0
    )


def test_later_fragment_is_quoted_for_nobody():
    packet = bytes(IP(src=CLIENT[4], dst=ORIGIN[4], frag=10) / UDP() / Raw(b"data"))
    report = error(4, packet)
    assert quoted_key(report, parsed(report)) is None
    assert icmp.is_error(4, report[20])

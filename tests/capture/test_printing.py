"""A packet in one line, whatever it is."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoRequest, ICMPv6ND_NS, IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Raw

from oxyctl.capture.printing import describe

V4, V6 = IP(src="10.0.0.1", dst="10.0.0.2"), IPv6(src="fd00::1", dst="fd00::2")
LINES = [
    (V4 / TCP(sport=1, dport=80, flags="SA", seq=7), "10.0.0.1:1 > 10.0.0.2:80 TCP SYN+ACK seq 7, 0 bytes"),
    (V6 / TCP(sport=1, dport=80, flags="F") / b"abc", "[fd00::1]:1 > [fd00::2]:80 TCP FIN seq 0, 3 bytes"),
    (V4 / UDP(sport=5, dport=53) / b"12345", "10.0.0.1:5 > 10.0.0.2:53 UDP 5 bytes"),
    (V4 / ICMP(id=3, seq=4) / b"x", "10.0.0.1 > 10.0.0.2 ICMP echo request id 3 seq 4, 1 bytes"),
    (V6 / ICMPv6EchoRequest(id=3, seq=4), "fd00::1 > fd00::2 ICMPv6 echo request id 3 seq 4, 0 bytes"),
    (V4 / ICMP(type=3, code=3) / Raw(bytes(28)), "10.0.0.1 > 10.0.0.2 ICMP port unreachable"),
    (V4 / ICMP(type=3, code=4) / Raw(bytes(28)), "10.0.0.1 > 10.0.0.2 ICMP packet too big"),
    (V6 / ICMPv6DestUnreach(code=4) / Raw(bytes(40)), "fd00::1 > fd00::2 ICMPv6 port unreachable"),
    (V6 / ICMPv6ND_NS(), "fd00::1 > fd00::2 ICMPv6 neighbour solicitation"),
    (V4 / ICMP(type=11) / Raw(bytes(28)), "10.0.0.1 > 10.0.0.2 ICMP time exceeded"),
    (IP(src="10.0.0.1", dst="10.0.0.2", proto=47) / b"abcd", "10.0.0.1 > 10.0.0.2 protocol 47, 4 bytes"),
    (IP(src="10.0.0.1", dst="10.0.0.2", frag=5, proto=17) / b"abcd", "10.0.0.1 > 10.0.0.2 fragment at 40, protocol 17"),
]  # fmt: skip


@pytest.mark.parametrize(("packet", "line"), LINES, ids=[line for _, line in LINES])
def test_what_it_is(packet, line):
    raw = bytes(packet)
    assert describe(raw, len(raw), is_ethernet=False) == line
    framed = bytes(Ether() / packet)
    assert describe(framed, len(framed), is_ethernet=True) == line
    tagged = bytes(Ether() / Dot1Q(vlan=9) / packet)
    assert describe(tagged, len(tagged), is_ethernet=True) == f"VLAN 9 {line}"


def test_arp():
    asked = bytes(Ether() / ARP(op=1, psrc="10.0.0.1", pdst="10.0.0.2"))
    assert describe(asked, len(asked), is_ethernet=True) == "ARP who has 10.0.0.2? tell 10.0.0.1"


@given(data=st.binary(max_size=120), is_ethernet=st.booleans())
def test_anything_may_be_on_a_wire(data, is_ethernet):
    line = describe(data, len(data), is_ethernet=is_ethernet)
    assert line
    assert line.isprintable()


@pytest.mark.parametrize("size", [0, 1, 19, 20, 24, 33])
def test_a_packet_that_was_cut_is_told_as_far_as_it_goes(size):
    whole = bytes(V4 / TCP(sport=1, dport=80, flags="S") / Raw(bytes(1000)))
    line = describe(whole[:size], len(whole), is_ethernet=False)
    assert "1040" in line
    assert "10.0.0.1:1 > 10.0.0.2:80 TCP" in describe(whole[:40], len(whole), is_ethernet=False)

"""Fragments on their way through the packet plane."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import IP
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.packet.fragment import split
from tests.packet.script import Script
from tests.packets import CLIENT, ORIGIN, decode, network, ping_packet, tcp_packet, udp_packet

FAMILIES = pytest.mark.parametrize("version", [4, 6])
MODES = pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])


@FAMILIES
@MODES
@pytest.mark.parametrize("make", [udp_packet, ping_packet, tcp_packet])
def test_fragments_in_any_order_become_one_packet(version, offload, make):
    script = Script(offload=offload)
    whole = make(version, random.Random(1).randbytes(4000))
    pieces = split(whole, 1280, 5)
    random.Random(2).shuffle(pieces)
    assert [script.give(piece) for piece in pieces] == [None] * len(pieces)
    (passed,) = script.passed
    at = 20 if version == 4 else 40
    assert passed[at:] == whole[at:]
    assert (decode(passed).src, decode(passed).dst) == (CLIENT[version], ORIGIN[version])
    assert script.tenant.fragments.held_bytes == 0


def test_checksum_is_checked_over_the_whole():
    script = Script()
    reasons = [script.give(piece) for piece in split(udp_packet(4, bytes(2000), chksum=0x1234), 1280, 5)]
    assert reasons == [None, DropReason.BAD_L4_CHECKSUM]


def test_fragment_of_somebody_else_is_not_held():
    script = Script()
    stranger = bytes(network(4, "100.96.0.3", flags=1) / Raw(bytes(64)))
    assert script.give(stranger) is DropReason.SPOOFED_SOURCE
    assert script.tenant.fragments.held_bytes == 0


def test_first_fragment_at_the_end_of_its_life_is_answered_and_a_later_one_is_not():
    script = Script()
    first, later = split(udp_packet(4, bytes(2000), ttl=1), 1280, 5)
    assert script.give(later) is DropReason.TTL_EXPIRED
    assert script.replies() == []
    assert script.give(first) is DropReason.TTL_EXPIRED
    assert script.replies() == [f"192.0.0.8 > {CLIENT[4]} ICMP 11/0 about {ORIGIN[4]}"]


def test_teardrop_and_limits_have_their_reasons():
    script = Script(bytes_held=3000)
    head = IP(src=CLIENT[4], dst=ORIGIN[4], proto=17)

    def fragment(ident, at, size, more):
        packet = head.copy()
        packet.id, packet.frag, packet.flags = ident, at // 8, int(more)
        return bytes(packet / Raw(bytes(size)))

    assert script.give(fragment(1, 0, 32, True)) is None
    assert script.give(fragment(1, 24, 4, False)) is DropReason.FRAGMENT_OVERLAP
    assert script.give(fragment(2, 0, 2000, True)) is None
    assert script.give(fragment(3, 0, 2000, True)) is DropReason.FRAGMENT_LIMIT
    assert script.give(fragment(4, 65_520, 64, False)) is DropReason.BAD_HEADER
    assert script.tenant.fragments.held_bytes == 2000
    script.tenant.expire_fragments(script.now + 15)
    assert script.tenant.drops == {DropReason.FRAGMENT_TIMEOUT: 1}


def test_fragments_that_hide_a_port_behind_an_overlap_never_become_a_packet():
    """The second piece would overwrite the destination port of the first (RFC 1858)."""
    script = Script()
    whole = udp_packet(4, bytes(64))
    head = IP(src=CLIENT[4], dst=ORIGIN[4], proto=17, id=9)
    first = head.copy()
    first.flags = 1
    second = head.copy()
    second.frag = 0
    script.give(bytes(first / Raw(whole[20:44])))
    second.flags = 1
    assert script.give(bytes(second / Raw(b"\x00\x50\x00\x51" + whole[24:44]))) is DropReason.FRAGMENT_OVERLAP
    assert script.flows == []

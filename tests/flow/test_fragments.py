"""Reassembly: any order gives the packet back, and everything else is bounded and counted."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, UDP, defragment
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, IPv6ExtHdrFragment, PadN, defragment6, fragment6
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.flow.fragments import Fragments
from proxy.packet.fragment import split
from tests.packets import decode, parsed, recomputed, udp_packet, versions


def make(**limits):
    return Fragments(**{"timeout_s": 15, "max_bytes": 1 << 20, **limits})


def feed(fragments, pieces, now=0.0):
    """What each piece led to."""
    return [fragments.add(piece, parsed(piece), now) for piece in pieces]


def piece(offset: int, payload: bytes, more: bool, *, ident: int = 1, src: str = "10.0.0.1", proto: int = 17) -> bytes:
    head = IP(src=src, dst="10.0.0.2", id=ident, frag=offset // 8, flags=int(more), proto=proto)
    return bytes(head / Raw(payload))


def without_ident(packet: bytes) -> bytes:
    """An IPv4 packet whose identification is 0 as in what `split` was given."""
    decoded = decode(packet)
    if packet[0] >> 4 == 4:
        decoded.id = 0
    return recomputed(bytes(decoded))


@given(versions, st.integers(1, 5000), st.integers(576, 1500), st.integers(0, 2**40), st.randoms(use_true_random=False))
def test_any_order_of_what_split_made_gives_the_packet_back(version, size, mtu, ident, random):
    whole = udp_packet(version, random.randbytes(size))
    if version == 4:
        whole = without_ident(whole)
    pieces = split(whole, mtu, ident & 0xFFFFFFFF)
    assert all(len(part) <= mtu for part in pieces)
    if len(pieces) == 1:
        assert pieces == [whole]
        return
    random.shuffle(pieces)
    fragments = make()
    *early, last = feed(fragments, pieces)
    assert early == [None] * len(early)
    assert without_ident(last) == whole
    assert fragments.held_bytes == 0
    assert len(fragments) == 0


@given(versions, st.integers(600, 5000), st.integers(576, 600))
def test_scapy_joins_what_split_made(version, size, mtu):
    whole = udp_packet(version, (bytes(range(256)) * 20)[:size])
    pieces = [decode(part) for part in split(whole, mtu, 77)]
    joined = defragment(pieces)[0] if version == 4 else defragment6(pieces)
    assert bytes(joined[UDP]) == whole[20 if version == 4 else 40 :]
    assert (joined.src, joined.dst) == (decode(whole).src, decode(whole).dst)


@given(st.integers(600, 4000), st.integers(100, 600), st.randoms(use_true_random=False))
def test_what_scapy_fragmented_is_joined(size, room, random):
    whole = IP(src="10.0.0.1", dst="10.0.0.2", id=99) / UDP(sport=1, dport=2) / Raw(random.randbytes(size))
    pieces = [bytes(part) for part in whole.fragment(room)]
    random.shuffle(pieces)
    assert feed(make(), pieces)[-1] == bytes(whole)


def test_ipv6_extension_headers_before_and_behind_the_fragment_header():
    """Those before it belong to the way and are left out; those behind it are payload and stay."""
    head = IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))])
    inner = UDP(sport=1, dport=2) / Raw(bytes(2000))
    pieces = [bytes(part) for part in fragment6(head / IPv6ExtHdrFragment(id=5) / inner, 1280)]
    *_, joined = feed(make(), reversed(pieces))
    assert decode(joined)[IPv6].nh == 17
    assert bytes(decode(joined)[UDP])[8:] == bytes(2000)
    assert recomputed(joined) == joined


def test_headers_are_those_of_the_first_fragment():
    whole = IP(src="10.0.0.1", dst="10.0.0.2", id=3, tos=0x28, ttl=9, options=b"\x01" * 4) / UDP() / Raw(bytes(1000))
    first, second = (bytes(part) for part in whole.fragment(600))
    other = decode(second)
    other.ttl, other.tos = 60, 0
    joined = feed(make(), [recomputed(bytes(other)), first])[-1]
    assert (decode(joined).ttl, decode(joined).tos, decode(joined).ihl) == (9, 0x28, 6)
    assert recomputed(joined) == joined


def test_duplicates_are_harmless():
    a, b, c = piece(0, b"a" * 16, True), piece(16, b"b" * 16, True), piece(32, b"c" * 5, False)
    fragments = make()
    assert feed(fragments, [a, a, c, c, b])[:4] == [None] * 4
    assert fragments.held_bytes == 0


OVERLAPS = {
    "teardrop": [(0, b"a" * 32, True), (24, b"b" * 4, False)],
    "inside an earlier one": [(0, b"a" * 32, True), (8, b"b" * 8, True)],
    "around an earlier one": [(8, b"b" * 8, True), (0, b"a" * 32, True)],
    "same place, other bytes": [(0, b"a" * 16, True), (0, b"b" * 16, True)],
    "same place, longer": [(0, b"a" * 16, True), (0, b"a" * 24, True)],
    "same place, shorter": [(0, b"a" * 16, True), (0, b"a" * 8, True)],
    "two ends": [(16, b"a" * 8, False), (32, b"a" * 8, False)],
    "an end before what is there": [(32, b"a" * 8, True), (8, b"b" * 8, False)],
    "beyond the end": [(8, b"b" * 8, False), (16, b"a" * 8, True)],
}


@pytest.mark.parametrize("name", OVERLAPS)
def test_overlap_discards_the_datagram(name):
    fragments = make()
    first, second = (piece(*parts) for parts in OVERLAPS[name])
    assert feed(fragments, [first, second]) == [None, DropReason.FRAGMENT_OVERLAP]
    assert (fragments.held_bytes, len(fragments)) == (0, 0)


@pytest.mark.parametrize(
    ("offset", "payload", "more"),
    [(65_528, b"x" * 8, False), (65_528, b"x" * 16, True), (8, b"x" * 7, True), (8, b"", False), (0, b"", True)],
)
def test_impossible_fragment_is_refused_before_it_is_held(offset, payload, more):
    fragments = make()
    assert feed(fragments, [piece(offset, payload, more)]) == [DropReason.BAD_HEADER]
    assert (fragments.held_bytes, len(fragments)) == (0, 0)


def test_ping_of_death_is_refused_when_headers_make_it_too_long():
    fragments = make()
    pieces = [piece(at, bytes(8192), True) for at in range(0, 57_344, 8192)]
    assert feed(fragments, pieces) == [None] * 7
    assert feed(fragments, [piece(57_344, bytes(8190), False)]) == [DropReason.BAD_HEADER]
    assert fragments.held_bytes == 0


def test_longest_ipv4_datagram_is_joined():
    whole = without_ident(udp_packet(4, bytes(65_507)))
    assert len(whole) == 65_535
    assert without_ident(feed(make(), split(whole, 1280, 1))[-1]) == whole


def test_bytes_are_limited_and_the_offender_pays():
    fragments = make(max_bytes=100)
    assert feed(fragments, [piece(0, b"a" * 64, True, ident=1)]) == [None]
    assert feed(fragments, [piece(0, b"b" * 40, True, ident=2)]) == [DropReason.FRAGMENT_LIMIT]
    assert (fragments.held_bytes, len(fragments)) == (64, 1)
    assert isinstance(feed(fragments, [piece(64, b"c", False, ident=1)])[0], bytes)


def test_datagrams_are_limited():
    fragments = make(max_datagrams=2)
    reasons = feed(fragments, [piece(0, b"a" * 8, True, ident=ident) for ident in range(3)])
    assert reasons == [None, None, DropReason.FRAGMENT_LIMIT]
    assert len(fragments) == 2


def test_pieces_of_one_datagram_are_limited():
    fragments = make()
    reasons = feed(fragments, [piece(at * 8, b"a" * 8, True) for at in range(1, 1026)])
    assert reasons == [None] * 1024 + [DropReason.FRAGMENT_LIMIT]
    assert fragments.held_bytes == 0


def test_datagrams_do_not_mix():
    """Source, destination, protocol and identification tell them apart (RFC 791)."""
    fragments = make()
    first = piece(0, b"a" * 8, True)
    others = [piece(8, b"b", False, ident=2), piece(8, b"b", False, src="10.0.0.9"), piece(8, b"b", False, proto=6)]
    assert feed(fragments, [first, *others]) == [None] * 4
    assert len(fragments) == 4


def test_expiry_is_by_the_first_fragment_and_counts_the_pieces():
    fragments = make(timeout_s=15)
    feed(fragments, [piece(0, b"a" * 8, True, ident=1)], now=100)
    feed(fragments, [piece(8, b"a" * 8, True, ident=1), piece(0, b"a" * 8, True, ident=2)], now=110)
    assert fragments.expire(114.9) == 0
    assert fragments.expire(115) == 2
    assert (fragments.held_bytes, len(fragments)) == (8, 1)
    assert fragments.expire(125) == 1
    assert fragments.held_bytes == 0


parts = st.tuples(st.integers(0, 12).map(lambda n: n * 8), st.binary(max_size=24), st.booleans(), st.integers(1, 3))


@given(st.lists(parts, max_size=40))
def test_arbitrary_fragments_stay_in_bounds(sequence):
    fragments = make(max_bytes=120, max_datagrams=2)
    for offset, payload, more, ident in sequence:
        raw = piece(offset, payload, more, ident=ident)
        joined = fragments.add(raw, parsed(raw), 0)
        if isinstance(joined, bytes):
            assert parsed(joined).end == len(joined)  # lengths and header checksum are right
        assert fragments.held_bytes == sum(datagram.received for datagram in fragments._waiting.values())
        assert 0 <= fragments.held_bytes <= 120
        assert len(fragments) <= 2
    fragments.expire(1e9)
    assert (fragments.held_bytes, len(fragments)) == (0, 0)

"""Super-packets cut in software: scapy reads the segments, and joined they are what was given."""

from __future__ import annotations

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import TCP, UDP
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.packet.segment import finish, is_consistent, segment
from proxy.wire.checksum import pseudo_header_sum
from tests.packets import decode, network, pack, parsed, recomputed, tcp_packet, udp_packet

FAMILIES = pytest.mark.parametrize("version", [4, 6])
KINDS = {(4, "tcp"): 1, (6, "tcp"): 4, (4, "udp"): 5, (6, "udp"): 5}


def super_packet(version, protocol, payload, *, flags="PA", options=(), seq=7, size=100):
    """As a device with offload hands it over: header, and a checksum that covers the pseudo-header only."""
    l4 = (
        TCP(sport=1, dport=2, seq=seq, flags=flags, options=list(options))
        if protocol == "tcp"
        else UDP(sport=1, dport=2)
    )
    packet = bytearray(bytes(network(version) / l4 / Raw(payload)))
    found, decoded = parsed(packet), decode(bytes(packet))
    offset = 16 if protocol == "tcp" else 6
    field = pseudo_header_sum(pack(decoded.src) + pack(decoded.dst), found.protocol, len(packet) - found.l4)
    packet[found.l4 + offset : found.l4 + offset + 2] = field.to_bytes(2, "big")
    start = 20 if version == 4 else 40
    return bytearray(struct.pack("<BBHHHH", 1, KINDS[version, protocol], start + 20, size, start, offset) + packet)


@given(
    st.sampled_from([4, 6]), st.binary(min_size=1, max_size=1500), st.integers(1, 700), st.integers(0, 0xFFFFFFFF),
    st.sampled_from(["A", "PA", "FPA", "CPA", "CFA"]), st.sampled_from([(), (("Timestamp", (1, 2)),)]),
)  # fmt: skip
def test_segments_of_tcp(version, payload, size, seq, flags, options):
    buffer = super_packet(version, "tcp", payload, flags=flags, options=options, seq=seq)
    pieces = segment(buffer, parsed(buffer, 10), size)
    assert [recomputed(piece) for piece in pieces] == pieces
    found = [decode(piece)[TCP] for piece in pieces]
    assert b"".join(bytes(each.payload) for each in found) == payload
    assert [each.seq for each in found] == [(seq + n * size) % (1 << 32) for n in range(len(found))]
    assert all(len(each.payload) == size for each in found[:-1])
    last, first = set(flags) & set("FP"), set(flags) & set("C")
    for number, each in enumerate(found):
        wanted = {"A"} | (last if number == len(found) - 1 else set()) | (first if number == 0 else set())
        assert set(str(each.flags)) == wanted
        assert each.options == found[0].options
    if version == 4:
        ids = [decode(piece).id for piece in pieces]
        assert ids == [(ids[0] + n) & 0xFFFF for n in range(len(ids))]


@given(st.sampled_from([4, 6]), st.binary(min_size=1, max_size=1500), st.integers(1, 700))
def test_segments_of_udp(version, payload, size):
    buffer = super_packet(version, "udp", payload)
    pieces = segment(buffer, parsed(buffer, 10), size)
    assert [recomputed(piece) for piece in pieces] == pieces
    assert b"".join(bytes(decode(piece)[UDP].payload) for piece in pieces) == payload


@given(st.sampled_from([4, 6]), st.sampled_from(["tcp", "udp"]), st.binary(max_size=300))
def test_finished_checksum_is_scapys(version, protocol, payload):
    buffer = super_packet(version, protocol, payload)
    finish(buffer, parsed(buffer, 10))
    assert bytes(buffer[10:]) == recomputed(bytes(buffer[10:]))


@FAMILIES
def test_super_packet_of_nothing_is_no_packet(version):
    buffer = super_packet(version, "tcp", b"")
    assert segment(buffer, parsed(buffer, 10), 100) is DropReason.BAD_OFFLOAD


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_header_that_tells_the_truth(version, protocol):
    buffer = super_packet(version, protocol, bytes(300))
    assert is_consistent(buffer, parsed(buffer, 10))
    for at, wrong in ((6, 99), (8, 4), (1, 4 if version == 4 else 1), (1, 1 if protocol == "udp" else 5)):
        lying = bytearray(buffer)
        lying[at] = wrong
        assert not is_consistent(lying, parsed(lying, 10))


def test_plain_packet_needs_no_truth():
    for packet in (tcp_packet(), udp_packet(6)):
        buffer = bytearray(10) + packet
        assert is_consistent(buffer, parsed(buffer, 10))

"""Address translation: the packet afterwards is the one that scapy builds with the new addresses."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6ExtHdrDestOpt, IPv6ExtHdrHopByHop, PadN
from scapy.packet import Raw

from proxy.flow.path import Path
from proxy.packet.translate import set_rewrite, translate
from proxy.wire import virtio
from proxy.wire.checksum import pseudo_header_sum
from tests.packets import (
    addresses,
    decode,
    network,
    pack,
    parsed,
    payloads,
    ports,
    recomputed,
    transport_packets,
    versions,
    words,
)

NEEDS_CSUM = bytes([1]) + bytes(9)


def path_for(packet: bytes, start: int, new: tuple[str, str, int, int]) -> Path:
    found = parsed(packet, start)
    old = found.source + found.destination + packet[found.l4 : found.l4 + 4]
    path = Path()
    src, dst, sport, dport = new
    set_rewrite(path, old, pack(src) + pack(dst) + sport.to_bytes(2, "big") + dport.to_bytes(2, "big"))
    return path


@st.composite
def tuples(draw, version):
    return draw(addresses(version)), draw(addresses(version)), draw(ports), draw(ports)


def with_new(packet: bytes, new: tuple[str, str, int, int]) -> bytes:
    """The oracle: scapy's packet with other addresses and ports, and every checksum made anew."""
    decoded = decode(packet)
    layer = decoded[TCP] if TCP in decoded else decoded[UDP]
    decoded.src, decoded.dst, layer.sport, layer.dport = new
    return recomputed(bytes(decoded))


@given(transport_packets(), st.data())
def test_translated_packet_is_what_scapy_builds(packet, data):
    new = data.draw(tuples(packet[0] >> 4))
    buffer = bytearray(packet)
    translate(buffer, parsed(buffer), path_for(packet, 0, new))
    assert same_packet(bytes(buffer), with_new(packet, new))


def same_packet(ours: bytes, theirs: bytes) -> bool:
    """Equal, but that a UDP checksum of all ones is scapy's and RFC 768's way to write zero."""
    at = parsed(theirs).l4 + 6
    if parsed(theirs).protocol == 17 and theirs[at : at + 2] == b"\xff\xff" and ours[at : at + 2] == b"\0\0":
        ours = ours[:at] + b"\xff\xff" + ours[at + 2 :]
    return ours == theirs


@given(st.binary(max_size=8), payloads, st.data(), words)
def test_ipv4_options_do_not_matter(options, payload, data, seq):
    head = IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x01" * len(options))
    packet = bytes(head / TCP(sport=1, dport=2, seq=seq) / Raw(payload))
    new = data.draw(tuples(4))
    buffer = bytearray(packet)
    translate(buffer, parsed(buffer), path_for(packet, 0, new))
    assert bytes(buffer) == with_new(packet, new)


@given(st.lists(st.sampled_from([IPv6ExtHdrHopByHop, IPv6ExtHdrDestOpt]), max_size=3), payloads, st.data())
def test_extension_headers_do_not_matter(headers, payload, data):
    head = network(6)
    for header in headers:
        head = head / header(options=[PadN(optdata=bytes(4))])
    packet = bytes(head / TCP(sport=1, dport=2) / Raw(payload))
    new = data.draw(tuples(6))
    buffer = bytearray(packet)
    translate(buffer, parsed(buffer), path_for(packet, 0, new))
    assert bytes(buffer) == with_new(packet, new)


@given(transport_packets(("tcp",)), st.data())
def test_partial_checksum_stays_the_sum_of_the_pseudo_header(packet, data):
    new = data.draw(tuples(packet[0] >> 4))
    found = parsed(packet)
    length, at = found.end - found.l4, found.l4 + 16
    partial = pseudo_header_sum(found.source + found.destination, 6, length)
    buffer = bytearray(NEEDS_CSUM + packet)
    buffer[10 + at : 10 + at + 2] = partial.to_bytes(2, "big")
    translate(buffer, parsed(buffer, 10), path_for(bytes(buffer), 10, new))
    expected = bytearray(with_new(packet, new))
    expected[at : at + 2] = pseudo_header_sum(pack(new[0]) + pack(new[1]), 6, length).to_bytes(2, "big")
    assert buffer[10:] == expected
    assert buffer[:10] == NEEDS_CSUM


@given(transport_packets(("tcp",)), st.data())
def test_offload_without_partial_checksum_is_like_plain(packet, data):
    new = data.draw(tuples(packet[0] >> 4))
    buffer = bytearray(virtio.NO_OFFLOAD + packet)
    translate(buffer, parsed(buffer, 10), path_for(bytes(buffer), 10, new))
    assert bytes(buffer) == virtio.NO_OFFLOAD + with_new(packet, new)


@given(versions, st.data(), payloads)
def test_way_back_is_the_mirror(version, data, payload):
    new = data.draw(tuples(version))
    packet = bytes(network(version) / TCP(sport=1, dport=2) / Raw(payload))
    there, back = path_for(packet, 0, new), Path()
    found = parsed(packet)
    set_rewrite(back, there.rewritten, found.source + found.destination + packet[found.l4 : found.l4 + 4])
    buffer = bytearray(packet)
    translate(buffer, parsed(buffer), there)
    translate(buffer, parsed(buffer), back)
    assert buffer == packet


@pytest.mark.parametrize("wrong", [1, 0x8000])
def test_bad_checksum_stays_bad(wrong):
    """Translation must not mend what was broken on the way: the kernel is to see it."""
    packet = bytearray(bytes(network(4) / TCP(sport=1, dport=2) / Raw(b"abc")))
    packet[36] ^= wrong >> 8
    packet[37] ^= wrong & 0xFF
    buffer = bytearray(packet)
    translate(buffer, parsed(buffer), path_for(bytes(packet), 0, ("10.9.9.9", "10.8.8.8", 5, 6)))
    assert bytes(buffer) != recomputed(bytes(buffer))

"""TCP: resets that answer as the RFC says, and an MSS that is lowered with the checksum kept."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.wire import ip, tcp
from proxy.wire.checksum import pseudo_header_sum
from proxy.wire.ip import IPPacket
from tests.packets import (
    decode,
    network,
    parsed,
    payloads,
    ports,
    recomputed,
    tcp_packet,
    transport_packets,
    versions,
    words,
)

FIN, SYN, ACK = 0x01, 0x02, 0x10
flags_without_ack = st.sampled_from([0, SYN, FIN, SYN | FIN, 0x08, 0x20])
mss_values = st.integers(0, 0xFFFF)


@given(versions, payloads, words, flags_without_ack, ports, ports)
@example(4, b"abc", 0xFFFFFFFF, SYN | FIN, 1, 2)  # the acknowledgement wraps
@example(6, b"", 0xFFFFFFFE, SYN, 1, 2)
def test_reset_of_a_segment_without_ack_acknowledges_all_of_it(version, payload, seq, flags, sport, dport):
    raw = tcp_packet(version, payload, seq=seq, flags=flags, sport=sport, dport=dport)
    reply = tcp.reset_for(raw, parsed(raw))
    decoded = decode(reply)
    segment = decoded[TCP]
    length = len(payload) + bool(flags & SYN) + bool(flags & FIN)
    assert (segment.flags, segment.seq, segment.ack) == ("RA", 0, (seq + length) % 2**32)
    assert (segment.sport, segment.dport) == (dport, sport)
    assert (decoded.src, decoded.dst) == (decode(raw).dst, decode(raw).src)
    assert recomputed(reply) == reply


@given(versions, payloads, words, words, st.sampled_from(["A", "SA", "PA", "FA"]))
def test_reset_of_a_segment_with_ack_has_its_sequence_number(version, payload, seq, ack, flags):
    raw = tcp_packet(version, payload, seq=seq, ack=ack, flags=flags)
    reply = tcp.reset_for(raw, parsed(raw))
    segment = decode(reply)[TCP]
    assert (segment.flags, segment.seq, segment.ack) == ("R", ack, 0)
    assert recomputed(reply) == reply


def test_reset_does_not_count_options_as_data():
    raw = tcp_packet(options=[("MSS", 1460), ("Timestamp", (1, 0))], seq=5)
    assert decode(tcp.reset_for(raw, parsed(raw)))[TCP].ack == 6


def test_reset_finds_the_segment_behind_ip_options_and_in_a_longer_buffer():
    raw = bytes(IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x01" * 4) / TCP(flags="S", seq=9, sport=1, dport=2))
    buffer = b"v" * 10 + raw + b"stale"
    packet = ip.parse(buffer, 10, len(buffer))
    assert isinstance(packet, IPPacket)
    assert decode(tcp.reset_for(buffer, packet))[TCP].ack == 10


option_lists = st.lists(
    st.sampled_from([("NOP", None), ("WScale", 7), ("SAckOK", b""), ("Timestamp", (1, 2)), (77, b"abc")]), max_size=3
)


@given(versions, option_lists, option_lists, mss_values, mss_values, payloads)
@example(4, [("NOP", None)], [], 1460, 1240, b"")  # the value stands at an odd offset
@example(4, [], [], 0xFFFF, 0, b"")
def test_clamp_lowers_mss_and_keeps_the_checksum(version, before, after, offered, mss, payload):
    options = [*before, ("MSS", offered), *after]
    assume(len(bytes(TCP(options=options))) <= 60)
    buffer = bytearray(tcp_packet(version, payload, options=options))
    original = bytes(buffer)
    changed = tcp.clamp_mss(buffer, parsed(buffer).l4, mss)
    assert changed == (offered > mss)
    assert dict(o for o in decode(bytes(buffer))[TCP].options if o[0] == "MSS")["MSS"] == min(offered, mss)
    assert recomputed(bytes(buffer)) == buffer
    assert changed or buffer == original


@given(versions, option_lists, st.integers(536, 0xFFFF))
def test_clamp_leaves_a_partial_checksum_alone(version, before, offered):
    raw = bytearray(tcp_packet(version, options=[*before, ("MSS", offered)]))
    packet = parsed(raw)
    pseudo = pseudo_header_sum(packet.source + packet.destination, 6, packet.end - packet.l4)
    raw[packet.l4 + 16 : packet.l4 + 18] = pseudo.to_bytes(2, "big")
    assert tcp.clamp_mss(raw, packet.l4, 535, partial_checksum=True)
    assert raw[packet.l4 + 16 : packet.l4 + 18] == pseudo.to_bytes(2, "big")
    assert ("MSS", 535) in decode(bytes(raw))[TCP].options


MALFORMED = {
    "end of options first": b"\x00\x02\x04\x05\xb4\x00\x00\x00",
    "length 0": b"\x08\x00\x02\x04\x05\xb4\x01\x01",
    "length 1": b"\x08\x01\x02\x04\x05\xb4\x01\x01",
    "length beyond the header": b"\x08\xff\x02\x04\x05\xb4\x01\x01",
    "kind at the last byte": b"\x01\x01\x01\x02",
    "MSS of three bytes": b"\x02\x03\x05\x01",
    "MSS cut by the header's end": b"\x01\x01\x02\x04",
    "only padding": b"\x01\x01\x01\x01",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_clamp_leaves_malformed_options_alone(name):
    options = MALFORMED[name]
    segment = TCP(flags="S", dataofs=5 + len(options) // 4) / Raw(options + b"\xff" * 8)
    buffer = bytearray(bytes(network(4) / segment))
    original = bytes(buffer)
    assert tcp.clamp_mss(buffer, parsed(buffer).l4, 100) is False
    assert buffer == original


@given(st.binary(min_size=20, max_size=80), mss_values)
def test_arbitrary_segments_never_raise_and_never_grow(data, mss):
    buffer = bytearray(bytes(IPv6(nh=6) / Raw(data)))
    packet = parsed(buffer)
    if not tcp.is_well_formed(buffer, packet):
        return
    size = len(buffer)
    tcp.clamp_mss(buffer, packet.l4, mss)
    assert len(buffer) == size
    assert isinstance(parsed(tcp.reset_for(buffer, packet)), IPPacket)


@pytest.mark.parametrize(
    ("data", "well_formed"),
    [
        (bytes(19), False), (bytes(12) + b"\x50" + bytes(7), True), (bytes(12) + b"\x40" + bytes(7), False),
        (bytes(12) + b"\x60" + bytes(7), False), (bytes(12) + b"\x60" + bytes(11), True), (b"", False),
    ],
)  # fmt: skip
def test_is_well_formed_when_the_header_fits(data, well_formed):
    raw = bytes(IPv6(nh=6) / Raw(data))
    assert tcp.is_well_formed(raw, parsed(raw)) is well_formed


@given(transport_packets(("tcp",)))
def test_good_segment_passes_the_check(raw):
    assert tcp.check(raw, parsed(raw)) is None


@given(transport_packets(("tcp",)), st.data())
def test_flipped_bit_fails_the_check(raw, data):
    packet = parsed(raw)
    at = data.draw(st.integers(packet.l4, len(raw) - 1))
    broken = bytearray(raw)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    assert tcp.check(broken, packet) in (DropReason.BAD_L4_CHECKSUM, DropReason.TRUNCATED)


def test_partial_checksum_is_vouched_for():
    raw = bytearray(tcp_packet())
    raw[36:38] = b"\x12\x34"
    assert tcp.check(raw, parsed(raw)) is DropReason.BAD_L4_CHECKSUM
    assert tcp.check(raw, parsed(raw), partial_checksum=True) is None

"""UDP: datagrams as scapy builds them, and the rules about a checksum of zero."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from scapy.layers.inet import UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.wire import ip, udp
from proxy.wire.checksum import checksum, ones_sum, pseudo_header_sum
from tests.packets import (
    addresses,
    network,
    pack,
    parsed,
    payloads,
    ports,
    recomputed,
    transport_packets,
    udp_packet,
    versions,
)


@given(versions, st.data(), ports, ports, payloads)
def test_datagram_is_what_scapy_builds(version, data, sport, dport, payload):
    src, dst = data.draw(addresses(version)), data.draw(addresses(version))
    ours = udp.datagram(pack(src) + pack(dst), sport, dport, payload)
    theirs = bytes(network(version, src, dst) / UDP(sport=sport, dport=dport) / Raw(payload))
    assert ours == theirs[20 if version == 4 else 40 :]


@given(versions, payloads)
@example(4, b"odd")
def test_checksum_is_never_sent_as_zero(version, payload):
    """Two more bytes can make the sum all ones: then 0xFFFF stands for zero (RFC 768)."""
    src = dst = bytes(4 if version == 4 else 16)
    payload += bytes(len(payload) % 2)
    sport = 0xFFFF - ones_sum(udp.datagram(src + dst, 0, 0, payload)[:6] + payload)
    sport = (sport - pseudo_header_sum(src + dst, ip.UDP, 8 + len(payload))) % 0xFFFF
    made = udp.datagram(src + dst, sport, 0, payload)
    assert made[6:8] == b"\xff\xff"
    whole = ip.header(src, dst, ip.UDP, len(made)) + made
    assert udp.check(whole, parsed(whole)) is None


@given(transport_packets(("udp",)))
def test_good_datagram_passes(raw):
    assert udp.check(raw, parsed(raw)) is None


@given(transport_packets(("udp",)), st.data())
def test_flipped_bit_is_seen(raw, data):
    packet = parsed(raw)
    at = data.draw(st.integers(packet.l4, len(raw) - 1))
    broken = bytearray(raw)
    broken[at] ^= 1 << data.draw(st.integers(0, 7))
    if broken[packet.l4 + 6 : packet.l4 + 8] == b"\0\0" and packet.version == 4:
        return
    assert udp.check(broken, packet) is not None


@pytest.mark.parametrize(("version", "reason"), [(4, None), (6, DropReason.BAD_L4_CHECKSUM)])
def test_zero_checksum_is_allowed_over_ipv4_only(version, reason):
    raw = udp_packet(version, chksum=0)
    assert udp.check(raw, parsed(raw)) is reason


@pytest.mark.parametrize("version", [4, 6])
def test_partial_checksum_is_vouched_for(version):
    raw = udp_packet(version, chksum=0x1234)
    assert udp.check(raw, parsed(raw)) is DropReason.BAD_L4_CHECKSUM
    assert udp.check(raw, parsed(raw), partial_checksum=True) is None


@pytest.mark.parametrize(
    ("length", "room", "reason"),
    [
        (8, 7, DropReason.TRUNCATED), (9, 8, DropReason.TRUNCATED), (7, 8, DropReason.BAD_HEADER),
        (0, 20, DropReason.BAD_HEADER), (0xFFFF, 100, DropReason.TRUNCATED),
    ],
)  # fmt: skip
@pytest.mark.parametrize("partial", [False, True])
def test_bad_length_has_its_reason(length, room, reason, partial):
    raw = bytes(IPv6(nh=17) / Raw((bytes(4) + length.to_bytes(2, "big") + b"\1\1" + bytes(room))[:room]))
    assert udp.check(raw, parsed(raw), partial_checksum=partial) is reason


def test_datagram_may_be_shorter_than_the_packet():
    """Bytes behind the datagram are no part of it and of no checksum."""
    inner = udp.datagram(pack("10.0.0.1") + pack("10.0.0.2"), 1, 2, b"abc")
    whole = ip.header(pack("10.0.0.1"), pack("10.0.0.2"), ip.UDP, len(inner) + 5) + inner + b"extra"
    assert udp.check(whole, parsed(whole)) is None


@given(versions, st.data(), ports, ports, payloads)
def test_partial_datagram_is_completed_as_a_device_does(version, data, sport, dport, payload):
    src, dst = (pack(data.draw(addresses(version))) for _ in range(2))
    made = bytearray(udp.partial(src + dst, sport, dport, payload))
    made[6:8] = (checksum(made) or 0xFFFF).to_bytes(2, "big")  # the sum from csum_start on, the field included
    whole = ip.header(src, dst, ip.UDP, len(made)) + made
    assert udp.check(whole, parsed(whole)) is None
    assert recomputed(whole) == whole


@given(st.binary(max_size=60), st.booleans())
def test_arbitrary_bytes_never_raise(data, partial):
    raw = bytes(IPv6(nh=17) / Raw(data))
    reason = udp.check(raw, parsed(raw), partial_checksum=partial)
    assert reason is None or isinstance(reason, DropReason)

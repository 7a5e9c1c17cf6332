"""GRE headers: as scapy builds and reads them, and each kind of bad one."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.l2 import GRE, GRE_PPTP, GRErouting
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.wire import gre
from tests.packets import ping_packet, rfc1071, udp_packet, versions, words

maybe_words = st.none() | words
ETHERTYPE = {4: 0x0800, 6: 0x86DD}


def scapys(version, packet, key=None, sequence=None, checksum=False):
    """The same as scapy builds it."""
    fields = {"proto": ETHERTYPE[version], "chksum_present": int(checksum)}
    if key is not None:
        fields |= {"key_present": 1, "key": key}
    if sequence is not None:
        fields |= {"seqnum_present": 1, "sequence_number": sequence}
    return bytes(GRE(**fields) / Raw(packet))


def built(version, packet, **fields):
    return gre.header(version, packet, **fields) + packet


@given(versions, st.binary(max_size=200), maybe_words, maybe_words, st.booleans())
def test_header_is_what_scapy_builds(version, payload, key, sequence, checksum):
    packet = udp_packet(version, payload)
    ours = built(version, packet, key=key, sequence=sequence, checksum=checksum)
    assert ours == scapys(version, packet, key, sequence, checksum)


@given(versions, st.binary(max_size=200), maybe_words, maybe_words, st.booleans(), st.integers(0, 40))
def test_what_was_built_is_read(version, payload, key, sequence, checksum, start):
    packet = udp_packet(version, payload)
    raw = bytes(start) + scapys(version, packet, key, sequence, checksum)
    found = gre.parse(raw, start, len(raw))
    assert isinstance(found, gre.Gre)
    assert raw[start + found.length :] == packet
    assert found == gre.Gre(len(raw) - start - len(packet), version, key, sequence, checksum)


@given(versions, st.binary(max_size=200), st.data())
def test_one_bit_wrong_anywhere_fails_the_checksum(version, payload, data):
    raw = bytearray(built(version, udp_packet(version, payload), key=7, checksum=True))
    at = data.draw(st.integers(32, len(raw) * 8 - 1))  # behind the flags and the protocol
    raw[at // 8] ^= 1 << at % 8
    assert gre.parse(raw, 0, len(raw)) is DropReason.GRE_CHECKSUM


def test_checksum_covers_header_and_payload_and_an_odd_byte():
    packet = ping_packet(4, b"odd")
    assert len(packet) % 2
    raw = built(4, packet, key=1, sequence=2, checksum=True)
    assert rfc1071(raw[:4] + bytes(4) + raw[8:]) == int.from_bytes(raw[4:6], "big")
    assert raw[6:8] == bytes(2)  # Reserved1 (RFC 2784 2.1)


def test_known_bytes():
    assert gre.header(4) == bytes.fromhex("00000800")
    assert gre.header(6, key=42) == bytes.fromhex("200086dd0000002a")
    assert gre.header(4, key=1, sequence=2**32 + 3) == bytes.fromhex("3000080000000001 00000003")


@pytest.mark.parametrize("fields", [{}, {"key": 1}, {"sequence": 0}, {"checksum": True},
                                    {"key": 1, "sequence": 0, "checksum": True}])  # fmt: skip
def test_truncated_anywhere_in_the_header(fields):
    packet = udp_packet()
    raw = built(4, packet, **fields)
    header = len(raw) - len(packet)
    assert all(gre.parse(raw, 0, end) is DropReason.GRE_TRUNCATED for end in range(header))
    assert gre.parse(gre.header(4, **fields), 0, header) is DropReason.GRE_INNER  # nothing in it


@pytest.mark.parametrize("flags", [0x4000, 0x0800, 0x0400, 0x4C00, 0x6000])
def test_routing_and_its_relatives_are_discarded(flags):
    raw = flags.to_bytes(2, "big") + b"\x08\x00" + bytes(8) + udp_packet()
    assert gre.parse(raw, 0, len(raw)) is DropReason.GRE_ROUTING


def test_scapys_source_route_is_discarded():
    raw = bytes(GRE(routing_present=1) / GRErouting(routing_info=b"abcd") / IP())
    assert gre.parse(raw, 0, len(raw)) is DropReason.GRE_ROUTING


@pytest.mark.parametrize("version", range(1, 8))
def test_other_versions_are_discarded(version):
    raw = bytes([0x20, version]) + b"\x08\x00" + bytes(4) + udp_packet()
    assert gre.parse(raw, 0, len(raw)) is DropReason.GRE_VERSION


def test_pptp_is_discarded():
    raw = bytes(GRE_PPTP(call_id=7, seqnum_present=1, sequence_number=1) / Raw(bytes(40)))
    assert gre.parse(raw, 0, len(raw)) is DropReason.GRE_VERSION


@pytest.mark.parametrize("bit", range(6, 13))
def test_reserved_bits_are_ignored(bit):
    raw = bytearray(built(4, udp_packet(), key=9))
    raw[bit // 8] |= 0x80 >> bit % 8
    assert gre.parse(raw, 0, len(raw)) == gre.Gre(8, 4, 9)


@pytest.mark.parametrize("ethertype", [0, 0x0806, 0x6558, 0x8847, 0x86DC, 0xFFFF])
def test_other_protocols_are_dropped(ethertype):
    raw = bytes(2) + ethertype.to_bytes(2, "big") + udp_packet()
    assert gre.parse(raw, 0, len(raw)) is DropReason.GRE_PROTOCOL


@pytest.mark.parametrize(("announced", "sent"), [(4, 6), (6, 4)])
def test_the_packet_is_what_the_protocol_says(announced, sent):
    raw = gre.header(announced) + udp_packet(sent)
    assert gre.parse(raw, 0, len(raw)) is DropReason.GRE_INNER


@given(words, st.integers(1, 2**31 - 1))
def test_sequence_numbers_wrap(last, ahead):
    later = (last + ahead) & 0xFFFFFFFF
    assert gre.is_later(later, last)
    assert not gre.is_later(last, later)
    assert not gre.is_later(last, last)


@given(st.binary(max_size=80))
def test_arbitrary_bytes_never_raise(raw):
    found = gre.parse(raw, 0, len(raw))
    assert isinstance(found, (gre.Gre, DropReason))
    assert gre.parse(bytearray(raw), 0, len(raw)) == found
    if isinstance(found, gre.Gre):
        assert raw[found.length] >> 4 == found.inner

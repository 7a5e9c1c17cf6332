"""IP headers: what scapy builds is read, what we build scapy reads, and nonsense has a reason."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP
from scapy.layers.inet6 import (
    ICMPv6EchoRequest,
    IPv6,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.wire import ip
from proxy.wire.ip import IPPacket
from tests.packets import addresses, decode, pack, parsed, payloads, ports, udp_packet, versions, words

bytes8 = st.integers(0, 255)
EXTENSIONS = {
    "hop": lambda: IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(12))]),
    "destination": lambda: IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))]),
}


@given(addresses(4), addresses(4), bytes8, bytes8, bytes8, ports, st.integers(0, 8191), st.integers(0, 3), payloads)
def test_ipv4_of_scapy_is_read(src, dst, ttl, tos, proto, ident, frag, flags, payload):
    raw = bytes(IP(src=src, dst=dst, ttl=ttl, tos=tos, proto=proto, id=ident, frag=frag, flags=flags) / Raw(payload))
    packet = parsed(raw)
    assert packet == IPPacket(
        4, 0, 20, len(raw), proto, ttl, pack(src), pack(dst), tos, bool(flags & 2), ident, frag * 8, bool(flags & 1)
    )
    assert packet.is_fragment == bool(frag or flags & 1)


@given(addresses(6), addresses(6), bytes8, bytes8, payloads)
def test_ipv6_of_scapy_is_read(src, dst, hlim, tc, payload):
    raw = bytes(IPv6(src=src, dst=dst, hlim=hlim, tc=tc, nh=59) / Raw(payload))
    assert parsed(raw) == IPPacket(6, 0, 40, len(raw), 59, hlim, pack(src), pack(dst), tc, True)


@given(addresses(4), addresses(4), bytes8, bytes8, bytes8, ports, st.integers(0, 8191), st.booleans(), payloads)
def test_ipv4_header_is_what_scapy_builds(src, dst, ttl, tos, proto, ident, frag, more, payload):
    ours = ip.ipv4_header(
        pack(src), pack(dst), proto, len(payload), ttl=ttl, tos=tos, ident=ident, offset=frag * 8, more=more
    )
    theirs = IP(src=src, dst=dst, ttl=ttl, tos=tos, proto=proto, id=ident, frag=frag, flags=int(more)) / Raw(payload)
    assert ours + payload == bytes(theirs)


@given(addresses(6), addresses(6), bytes8, bytes8, payloads)
def test_ipv6_header_is_what_scapy_builds(src, dst, hlim, tc, payload):
    ours = ip.ipv6_header(pack(src), pack(dst), 59, len(payload), hop_limit=hlim, traffic_class=tc)
    assert ours + payload == bytes(IPv6(src=src, dst=dst, hlim=hlim, tc=tc, nh=59) / Raw(payload))


@given(versions, st.data(), bytes8, bytes8)
def test_header_of_either_family_is_read_back(version, data, ttl, tos):
    src, dst = (pack(data.draw(addresses(version))) for _ in range(2))
    packet = parsed(ip.header(src, dst, 17, 5, ttl=ttl, tos=tos) + b"12345")
    assert (packet.version, packet.source, packet.destination, packet.ttl, packet.tos) == (version, src, dst, ttl, tos)
    assert packet.end - packet.l4 == 5


def test_dont_fragment_is_set_when_asked():
    assert decode(ip.ipv4_header(bytes(4), bytes(4), 6, 0, dont_fragment=True)).flags.DF


@given(st.integers(0, 40), st.integers(0, 9), versions)
def test_offsets_count_from_the_start_of_the_buffer(room, trailing, version):
    raw = udp_packet(version)
    buffer = bytearray(room) + raw + bytes(trailing)
    packet = ip.parse(buffer, room, len(buffer))
    assert isinstance(packet, IPPacket)
    assert (packet.start, packet.end) == (room, room + len(raw))
    assert buffer[packet.l4 : packet.end] == raw[20 if version == 4 else 40 :]


def test_ipv4_options_are_skipped():
    raw = bytes(IP(src="10.0.0.1", dst="10.0.0.2", proto=17, options=b"\x01" * 8) / Raw(b"x" * 9))
    packet = parsed(raw)
    assert packet.l4 == 28
    assert raw[packet.l4 :] == b"x" * 9


@given(st.lists(st.sampled_from(sorted(EXTENSIONS)), max_size=7), words, st.booleans())
def test_extension_headers_are_skipped(names, ident, atomic):
    packet = IPv6(src="fd00::1", dst="fd00::2")
    for name in names:
        packet = packet / EXTENSIONS[name]()
    if atomic:
        packet = packet / IPv6ExtHdrFragment(id=ident)
    raw = bytes(packet / ICMPv6EchoRequest(data=b"abc"))
    found = parsed(raw)
    assert found.protocol == ip.ICMPV6
    assert raw[found.l4] == 128
    assert not found.is_fragment
    assert found.fragment_id == (ident if atomic else 0)
    field = ip.protocol_offset(raw, found)
    assert raw[field] == ip.ICMPV6
    assert field == 6 if found.l4 == 40 else 40 <= field < found.l4


@given(st.integers(0, 8191), st.booleans(), words)
def test_ipv6_fragment_header_is_read_and_built(offset, more, ident):
    theirs = bytes(
        IPv6(src="fd00::1", dst="fd00::2")
        / IPv6ExtHdrFragment(nh=17, offset=offset, m=int(more), id=ident)
        / Raw(b"z" * 8)
    )
    packet = parsed(theirs)
    assert (packet.protocol, packet.fragment_offset, packet.more_fragments) == (17, offset * 8, more)
    assert packet.fragment_id == ident
    assert theirs[packet.l4 :] == b"z" * 8
    assert ip.fragment_header(17, ident, offset * 8, more) == theirs[40:48]


def test_later_fragment_is_not_read_beyond_its_fragment_header():
    """What follows is payload, even when the first fragment's chain goes on (RFC 8200 4.5)."""
    raw = bytes(IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrFragment(nh=60, offset=1, m=0, id=9) / Raw(b"\xff" * 8))
    packet = parsed(raw)
    assert (packet.protocol, packet.l4) == (60, 48)


def test_routing_header_stays_unknown():
    raw = bytes(IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrRouting(addresses=["fd00::3"]) / Raw(b"x"))
    assert parsed(raw).protocol == 43


good = {version: udp_packet(version) for version in (4, 6)}


def changed(version: int, at: int, value: int) -> bytes:
    raw = bytearray(good[version])
    raw[at] = value
    return bytes(raw)


hop = IPv6ExtHdrHopByHop
REFUSED = {
    "nothing": (b"", DropReason.EMPTY),
    "version 0": (b"\x00" * 40, DropReason.BAD_VERSION),
    "version 5": (b"\x55" * 40, DropReason.BAD_VERSION),
    "brace": (b'{"tenant": "acme"}', DropReason.BAD_VERSION),
    "19 bytes of IPv4": (good[4][:19], DropReason.TRUNCATED),
    "39 bytes of IPv6": (good[6][:39], DropReason.TRUNCATED),
    "IPv4 shorter than it says": (good[4][:-1], DropReason.TRUNCATED),
    "IPv6 shorter than it says": (good[6][:-1], DropReason.TRUNCATED),
    "header of 16 bytes": (changed(4, 0, 0x44), DropReason.BAD_HEADER),
    "header longer than the packet": (changed(4, 3, 19), DropReason.BAD_HEADER),
    "IPv4 checksum": (changed(4, 8, 63), DropReason.BAD_IP_CHECKSUM),
    "IPv4 options beyond the end": (changed(4, 0, 0x4F), DropReason.BAD_HEADER),
    "extension header cut": (bytes(IPv6(nh=0, plen=4) / Raw(b"\x11\x00\x01\x02")), DropReason.TRUNCATED),
    "extension header beyond the end": (bytes(IPv6(nh=0, plen=8) / Raw(b"\x11\x01" + bytes(6))), DropReason.TRUNCATED),
    "nine extension headers": (
        bytes(IPv6(nh=60, plen=72) / Raw((b"\x3c\x00\x01\x04" + bytes(4)) * 9)),
        DropReason.BAD_HEADER,
    ),
    "fragment of a fragment": (
        bytes(IPv6(nh=44, plen=16) / Raw(b"\x2c\x00\x00\x01" + bytes(4) + b"\x11\x00\x00\x01" + bytes(4))),
        DropReason.BAD_HEADER,
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_bad_packet_has_its_reason(name):
    raw, reason = REFUSED[name]
    assert ip.parse(raw, 0, len(raw)) is reason


@given(st.binary(max_size=200), st.integers(0, 20), st.sampled_from([b"", b"\x45", b"\x4f", b"\x60"]))
def test_arbitrary_bytes_never_raise_and_never_leave_the_buffer(data, start, head):
    buffer = bytes(start) + head + data
    packet = ip.parse(buffer, start, len(buffer))
    if isinstance(packet, IPPacket):
        assert start <= packet.l4 <= packet.end <= len(buffer)


@pytest.mark.parametrize(
    ("address", "unicast"),
    [
        ("10.0.0.1", True), ("100.96.0.2", True), ("223.255.255.255", True), ("0.0.0.0", False), ("0.1.2.3", False),
        ("127.0.0.1", False), ("224.0.0.1", False), ("239.1.2.3", False), ("240.0.0.1", False),
        ("255.255.255.255", False), ("fd00::1", True), ("2001:db8::1", True), ("fe80::1", True), ("::", False),
        ("::1", False), ("ff02::1", False), ("ff0e::5", False), ("::ffff:10.0.0.1", False),
    ],
)  # fmt: skip
def test_is_unicast(address, unicast):
    assert ip.is_unicast(pack(address)) is unicast

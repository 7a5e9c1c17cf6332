"""ICMP: messages as scapy builds them, and errors that quote as much as they may."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, IPerror, UDPerror
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6EchoReply, ICMPv6TimeExceeded, IPerror6
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.wire import icmp
from tests.packets import (
    CLIENT,
    ORIGIN,
    decode,
    network,
    pack,
    parsed,
    payloads,
    ping_packet,
    ports,
    recomputed,
    udp_packet,
    versions,
)

KINDS = [
    icmp.NET_UNREACHABLE, icmp.HOST_UNREACHABLE, icmp.PROTOCOL_UNREACHABLE, icmp.PORT_UNREACHABLE, icmp.PROHIBITED,
    icmp.TTL_EXCEEDED, icmp.TOO_BIG,
]  # fmt: skip
HOP = {4: pack("192.0.0.8"), 6: pack("fd00::8")}


@given(versions, ports, ports, payloads)
def test_echo_reply_is_what_scapy_builds(version, ident, seq, payload):
    src, dst = ORIGIN[version], CLIENT[version]
    ours = icmp.message(pack(src) + pack(dst), icmp.ECHO_REPLIES[version], 0, ident << 16 | seq, payload)
    echo = ICMP(type=0, id=ident, seq=seq) if version == 4 else ICMPv6EchoReply(id=ident, seq=seq)
    assert ours == bytes(network(version, src, dst) / echo / Raw(payload))[20 if version == 4 else 40 :]
    assert icmp.echo_identity(ours, 0) == (ident, seq)


@given(versions, payloads, ports, ports)
def test_good_message_passes_and_a_broken_one_does_not(version, payload, ident, seq):
    raw = bytearray(ping_packet(version, payload, ident=ident, seq=seq))
    packet = parsed(raw)
    assert icmp.check(raw, packet) is None
    raw[packet.l4 + 1] ^= 1
    assert icmp.check(raw, packet) is DropReason.BAD_L4_CHECKSUM


@pytest.mark.parametrize("version", [4, 6])
def test_message_of_seven_bytes_is_truncated(version):
    raw = bytes(network(version, **({"proto": 1} if version == 4 else {"nh": 58})) / Raw(bytes(7)))
    assert icmp.check(raw, parsed(raw)) is DropReason.TRUNCATED


@given(versions, st.sampled_from(KINDS), st.integers(0, 3000))
def test_error_quotes_as_much_as_the_minimum_mtu_holds(version, kind, size):
    quoted = udp_packet(version, bytes(size))
    raw = icmp.error(HOP[version], quoted, kind)
    limit = {4: 576, 6: 1280}[version]
    overhead = {4: 28, 6: 48}[version]
    assert len(raw) == min(limit, overhead + len(quoted))
    assert raw[overhead:] == quoted[: limit - overhead]
    decoded = decode(raw)
    assert (pack(decoded.src), decoded.dst) == (HOP[version], CLIENT[version])
    packet = parsed(raw)
    assert icmp.check(raw, packet) is None
    assert (raw[packet.l4], raw[packet.l4 + 1]) == (kind.v4 if version == 4 else kind.v6)


def test_scapy_reads_the_quoted_datagram_of_an_ipv4_error():
    decoded = decode(icmp.error(HOP[4], udp_packet(4, sport=1111, dport=2222), icmp.PORT_UNREACHABLE))
    assert (decoded[ICMP].type, decoded[ICMP].code) == (3, 3)
    assert decoded[IPerror].dst == ORIGIN[4]
    assert (decoded[UDPerror].sport, decoded[UDPerror].dport) == (1111, 2222)


def test_scapy_reads_the_quoted_datagram_of_an_ipv6_error():
    decoded = decode(icmp.error(HOP[6], udp_packet(6), icmp.PROHIBITED))
    assert decoded[ICMPv6DestUnreach].code == 1
    assert decoded[IPerror6].dst == ORIGIN[6]
    raw = icmp.error(HOP[6], udp_packet(6), icmp.TTL_EXCEEDED)
    assert decode(raw)[ICMPv6TimeExceeded].code == 0
    assert recomputed(raw) == raw


@pytest.mark.parametrize("version", [4, 6])
def test_too_big_says_the_mtu(version):
    raw = icmp.error(HOP[version], udp_packet(version), icmp.TOO_BIG, rest=1234)
    assert int.from_bytes(raw[parsed(raw).l4 + 4 : parsed(raw).l4 + 8], "big") == 1234


@pytest.mark.parametrize("kind", range(256))
def test_is_error_as_the_registries_say(kind):
    assert icmp.is_error(4, kind) == (kind in (3, 4, 5, 11, 12))
    assert icmp.is_error(6, kind) == (kind < 128)


@given(st.binary(max_size=60), versions)
def test_arbitrary_bytes_never_raise(data, version):
    raw = bytes(network(version, **({"proto": 1} if version == 4 else {"nh": 58})) / Raw(data))
    reason = icmp.check(raw, parsed(raw))
    assert reason in (None, DropReason.TRUNCATED, DropReason.BAD_L4_CHECKSUM)

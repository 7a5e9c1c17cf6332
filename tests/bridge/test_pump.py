"""The hot loops beside their readable twin: the same bytes out, the same counters, for every packet."""

from __future__ import annotations

import socket
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, PadN
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.flow.path import Path
from proxy.kernel.pump import BUDGET, SINGLES, UNKNOWN_BUDGET, RampPump
from proxy.packet.translate import set_rewrite, translate
from proxy.poller import IN
from proxy.wire import ip
from proxy.wire.ip import IPPacket
from tests.bridge.pipes import Bridged, Ramp
from tests.packets import network, parsed, tcp_packet, transport_packets, udp_packet

MODES = pytest.mark.parametrize("header", [0, 10], ids=["plain", "offload"])
virtio_headers = st.sampled_from(
    [bytes(10), bytes([1]) + bytes(9), struct.pack("<BBHHHH", 1, 1, 54, 1240, 20, 16), bytes([2]) + bytes(9)]
)


def key_of(packet: bytes, start: int) -> bytes:
    found = parsed(packet, start)
    return found.source + found.destination + packet[found.l4 : found.l4 + 4]


def twin(buffer: bytes, start: int, rewritten: bytes) -> bytes:
    """What `translate` makes of the same packet."""
    path = Path()
    set_rewrite(path, key_of(buffer, start), rewritten)
    copy = bytearray(buffer)
    translate(copy, parsed(copy, start), path)
    return bytes(copy)


def memoise(paths: dict[bytes, Path], buffer: bytes, start: int, rewritten: bytes) -> Path:
    key = key_of(buffer, start)
    path = paths[key] = Path()
    set_rewrite(path, key, rewritten)
    return path


@st.composite
def cases(draw):
    """A TCP packet as it stands on a tunnel, where its IP packet starts, and what is to replace its tuple."""
    packet = draw(transport_packets(("tcp",)))
    header = draw(st.one_of(st.just(b""), virtio_headers))
    size = 12 if packet[0] >> 4 == 4 else 36
    return header + packet, len(header), draw(st.binary(min_size=size, max_size=size))


def is_looked_at(buffer: bytes, start: int) -> bool:
    """Whether it is a SYN or a RST, which the packet plane must see."""
    return bool(buffer[parsed(buffer, start).l4 + 13] & 6)


@given(cases())
def test_ramp_pump_does_what_translate_does(case):
    buffer, start, rewritten = case
    with Ramp(start) as ramp:
        path = memoise(ramp.paths, buffer, start, rewritten)
        if is_looked_at(buffer, start):
            assert (ramp.give(buffer), ramp.slow, path.packets) == ([], [buffer], 0)
            return
        assert ramp.give(buffer) == [twin(buffer, start, rewritten)]
        assert (path.packets, path.octets) == (1, len(buffer) - start)
        assert (ramp.pump.packets, ramp.pump.octets) == (1, len(buffer))
        assert (ramp.slow, dict(ramp.drops)) == ([], {})


@given(cases())
def test_bridge_pump_does_what_translate_does(case):
    buffer, start, rewritten = case
    with Bridged(start) as bridge:
        path = memoise(bridge.paths, buffer, start, rewritten)
        path.send = bridge.keep
        assert bridge.give(buffer) == [twin(buffer, start, rewritten)]
        assert (path.packets, path.octets, bridge.pump.strays) == (1, len(buffer) - start, 0)


@given(st.binary(max_size=120), st.sampled_from([0, 10]), st.sampled_from([4, 16]), st.sampled_from([0, 0, 0, 1, -1]))
def test_ramp_pump_translates_or_gives_away_and_counts_what_it_did(data, start, size, lie):
    """Any bytes behind an IP header: to the kernel translated, or to the packet plane untouched; never both."""
    head = ip.header(bytes(size - 1) + b"\1", bytes(size - 1) + b"\2", ip.TCP, max(0, len(data) + lie))
    raw = bytes(start) + head + data
    with Ramp(start) as ramp:
        key = whatever_stands_where_a_key_would(head + data)
        path = ramp.paths[key] = Path()
        set_rewrite(path, key, key)
        out = ramp.give(raw)
        assert len(out) + len(ramp.slow) == 1
        assert path.packets == len(out)
        assert path.octets == sum(len(packet) - start for packet in out)
        if ramp.slow:
            assert ramp.slow == [raw]
        else:
            found = ip.parse(raw, start, len(raw))
            assert isinstance(found, IPPacket)
            assert found.end == len(raw)
            assert found.end - found.l4 >= 20


def options_packet() -> bytes:
    return bytes(IP(src="10.0.0.1", dst="10.0.0.2", options=b"\x01" * 4) / TCP(sport=1, dport=2))


ODD = {
    "a fragment": bytes(IP(src="10.0.0.1", dst="10.0.0.2", flags=1) / TCP(sport=1, dport=2)),
    "a later fragment": bytes(IP(src="10.0.0.1", dst="10.0.0.2", frag=3) / TCP(sport=1, dport=2)),
    "IP options": options_packet(),
    "an extension header": bytes(
        IPv6(src="fd00::1", dst="fd00::2") / IPv6ExtHdrDestOpt(options=[PadN(optdata=bytes(4))]) / TCP(sport=1, dport=2)
    ),
    "trailing bytes": tcp_packet(flags="A") + b"x",
    "trailing bytes, IPv6": tcp_packet(6, flags="A") + b"x",
    "cut": tcp_packet(flags="A")[:-1],
    "cut, IPv6": tcp_packet(6, flags="A")[:-1],
    "TCP of 19 bytes": bytes(network(4, proto=6) / Raw(bytes(19))),
    "TCP of 19 bytes, IPv6": bytes(network(6, nh=6) / Raw(bytes(19))),
    "TCP of 8 bytes": bytes(network(4, proto=6) / Raw(bytes(8))),
    "TCP of 8 bytes, IPv6": bytes(network(6, nh=6) / Raw(bytes(8))),
    "27 bytes": tcp_packet()[:27],
    "1 byte": b"\x45",
    "a brace": b'{"tenant": "acme"}',
    "a SYN": tcp_packet(flags="S"),
    "a SYN, IPv6": tcp_packet(6, flags="S"),
    "a RST": tcp_packet(flags="RA"),
    "a RST, IPv6": tcp_packet(6, flags="R"),
    "another version": b"\x55" * 60,
    "no flow": tcp_packet(sport=9, flags="A"),
    "a protocol without flows": bytes(network(4, proto=132) / Raw(bytes(40))),
}


def whatever_stands_where_a_key_would(packet: bytes) -> bytes:
    padded = packet + bytes(60)
    return padded[8:44] if packet[0] >> 4 == 6 else padded[12:24]


@MODES
@pytest.mark.parametrize("name", ODD)
def test_what_is_not_plain_tcp_of_a_known_flow_goes_to_the_packet_plane(name, header):
    packet = bytes(header) + ODD[name]
    with Ramp(header) as ramp:
        path = Path()
        key = whatever_stands_where_a_key_would(ODD[name])
        if name != "no flow":
            ramp.paths[key] = path
        set_rewrite(path, key, bytes(len(key)))
        assert ramp.give(packet) == []
        assert ramp.slow == [packet]
        assert (path.packets, path.octets) == (0, 0)


@MODES
def test_zero_length_datagram_is_given_away_unless_it_was_the_end(header):
    with Ramp(header) as ramp:
        ramp.give(b"")
        assert (ramp.slow, ramp.ends, ramp.pump.packets) == ([b""], 1, 1)
        ramp.is_closed = True
        ramp.give(b"", b"")
        assert (ramp.slow, ramp.ends, ramp.pump.packets) == ([b""], 2, 1)


@MODES
def test_longest_packet_passes_and_a_longer_datagram_shows(header):
    packet = bytes(header) + tcp_packet(6, bytes(65_535 - 20), flags="A")
    assert len(packet) == header + 65_575
    with Ramp(header) as ramp:
        path = memoise(ramp.paths, packet, header, bytes(36))
        assert len(ramp.give(packet)[0]) == header + 65_575
        assert ramp.give(packet + bytes(3000)) == []
        assert (path.packets, len(ramp.slow)) == (1, 1)
        assert len(ramp.slow[0]) > header + 65_575


@MODES
def test_nothing_of_a_longer_packet_is_left_in_a_later_shorter_one(header):
    """All packets share one buffer: what one does not cover is the last one's."""
    secret = bytes(header) + tcp_packet(4, b"S" * 1000, flags="A")
    short = bytes(header) + tcp_packet(4, b"abc", sport=2, flags="A")
    cut = bytes(header) + tcp_packet(4, flags="A")[:-4]
    with Ramp(header) as ramp:
        memoise(ramp.paths, secret, header, b"\x01" * 12)
        memoise(ramp.paths, short, header, b"\x02" * 12)
        first, second = ramp.give(secret, short)
        assert (len(first), second) == (len(secret), twin(short, header, b"\x02" * 12))
        ramp.give(secret, cut, b"\x45", b"")
        assert ramp.slow == [cut, b"\x45", b""]


@MODES
def test_short_udp_after_a_long_one_is_not_taken_for_it(header):
    """A datagram of 20 bytes has no ports: the last packet's ports behind it must not name a flow."""
    whole = bytes(header) + udp_packet(4, b"x" * 100)
    bare = bytearray(whole[: header + 20])
    bare[header + 2 : header + 4] = (20).to_bytes(2, "big")
    with Ramp(header) as ramp:
        calls = []
        ramp.sessions[key_of(whole, header)] = lambda buffer, l4, end: calls.append((l4, end))
        ramp.give(whole, bytes(bare))
        assert calls == [(header + 20, len(whole))]
        assert ramp.slow == [bytes(bare)]


@MODES
@pytest.mark.parametrize("version", [4, 6])
def test_sessions_get_the_datagram_and_their_reason_is_counted(version, header):
    packet = bytes(header) + udp_packet(version, b"payload")
    with Ramp(header) as ramp:
        seen = []

        def session(buffer, l4, end):
            seen.append(bytes(buffer[l4:end]))
            return DropReason.BAD_L4_CHECKSUM if len(seen) == 2 else None

        ramp.sessions[key_of(packet, header)] = session
        ramp.paths[key_of(packet, header)] = Path()  # TCP's: not to be mixed up
        ramp.give(packet, packet)
        assert [data[8:] for data in seen] == [b"payload"] * 2
        assert ramp.drops == {DropReason.BAD_L4_CHECKSUM: 1}


def test_budget_bounds_one_call():
    packet = tcp_packet(flags="A")
    with Ramp() as ramp, Bridged() as bridge:
        path = memoise(ramp.paths, packet, 0, bytes(12))
        assert len(ramp.give(*[packet] * (BUDGET + 10))) == BUDGET
        assert len(ramp.give()) == 10
        assert path.packets == BUDGET + 10
        memoise(bridge.paths, packet, 0, bytes(12)).send = bridge.keep
        assert len(bridge.give(*[packet] * (BUDGET + 10))) == BUDGET
        assert len(bridge.give()) == 10


def test_packets_without_a_path_have_a_smaller_budget():
    """Each may open a flow: a flood of them must not keep other tunnels waiting."""
    seen = []
    with Ramp(0, lambda buffer, end: seen.append(end)) as ramp:
        ramp.give(*[tcp_packet()] * (UNKNOWN_BUDGET + 3))
        assert len(seen) == UNKNOWN_BUDGET
        ramp.give()
        assert len(seen) == UNKNOWN_BUDGET + 3


def test_refusal_of_the_kernel_is_counted_and_the_next_packet_passes():
    packet = tcp_packet(flags="A")
    with Ramp() as ramp:
        memoise(ramp.paths, packet, 0, bytes(12))
        ramp._tun.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)  # the least that the kernel allows
        given = 40
        passed = len(ramp.give(*[packet] * given))
        assert 0 < passed < given
        assert ramp.drops == {DropReason.KERNEL_IP: given - passed}
        assert len(ramp.give(packet)) == 1


@pytest.mark.parametrize("version", [4, 6])
def test_packet_for_no_flow_is_a_stray_of_the_bridge(version):
    with Bridged() as bridge:
        assert bridge.give(tcp_packet(version)) == []
        assert bridge.pump.strays == 1


class Trickle:
    """A tunnel that hands out what `waiting` holds, and counts how often it is asked."""

    def __init__(self):
        self.waiting, self.reads = 0, 0

    def recv_into(self, buffer):
        self.reads += 1
        if not self.waiting:
            raise BlockingIOError
        self.waiting -= 1
        return 20


def test_lone_packets_are_not_each_followed_by_a_read_in_vain():
    tunnel, seen = Trickle(), []
    pump = RampPump(tunnel, -1, 0, {}, {}, lambda buffer, end: seen.append(end), lambda: False, lambda reason: None)
    for _ in range(1 + SINGLES):
        tunnel.waiting = 1
        pump.ready(IN)
    assert (len(seen), tunnel.reads) == (1 + SINGLES, 2 + SINGLES)
    tunnel.waiting, visits = 1, 0
    pump.ready(IN)
    tunnel.waiting = BUDGET
    while tunnel.waiting:  # a burst after it is told of until it is read
        pump.ready(IN)
        visits += 1
    assert (len(seen), visits) == (2 + SINGLES + BUDGET, SINGLES + 1)

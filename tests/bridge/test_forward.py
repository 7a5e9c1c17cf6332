"""The forward branches of the hot loops beside their readable twin: the same bytes into the next tunnel, or a look."""

from __future__ import annotations

import socket
import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from proxy.flow.path import Path
from proxy.offramps.peer_sockets import PeerSocket, open_peer_socket
from proxy.packet.forward import forward, memoise
from proxy.packet.translate import set_rewrite, translate
from proxy.wire import gue, ip
from proxy.wire.ecn import arrive
from proxy.wire.ip import IPPacket
from tests.bridge.pipes import Ramp
from tests.bridge.ports import GRO, Port
from tests.flows import make_tenant, make_tunnel
from tests.packets import network, parsed, tcp_packet, transport_packets, udp_packet

HEADERS = [(0, 0), (0, 10), (10, 0), (10, 10)]
LOOKED_AT = 0x07  # FIN, SYN, RST


class World:
    """Two tunnels in memory, and a path from one to the other."""

    def __init__(self, arrival: int, egress: int, mtu: int = 1280) -> None:
        tenant = make_tenant()
        self.arrival = make_tunnel(tenant, offload=arrival > 0, mtu=9000)
        self.egress = make_tunnel(tenant, offload=egress > 0, mtu=mtu, tunnel_id="memory-2")
        self.path = Path()
        memoise(self.path, 4, self.arrival, self.egress, 7)

    def twin(self, datagram: bytes) -> Any:
        """What the readable path makes of it."""
        buffer = bytearray(datagram)
        start = self.arrival.header_bytes
        packet = ip.parse(buffer, start, len(buffer))
        return forward(buffer, packet, self.arrival, self.egress, 1) if isinstance(packet, IPPacket) else packet

    def sent(self) -> list[bytes]:
        out = list(self.egress.sent)
        self.egress.sent.clear()
        return out


def key_of(datagram: bytes, start: int) -> bytes:
    found = parsed(datagram, start)
    return found.source + found.destination + datagram[found.l4 : found.l4 + 4]


def memoised(ramp: Any, world: World, datagram: bytes, start: int) -> None:
    key = key_of(datagram, start)
    (ramp.paths if parsed(datagram, start).protocol == ip.TCP else ramp.forwards)[key] = world.path


def is_plain(packet: bytes) -> bool:
    """Whether a router passes it on without a look: hops left, and no beginning or end of a connection."""
    found = parsed(packet)
    flags = packet[found.l4 + 13] if found.protocol == ip.TCP else 0
    return found.ttl > 1 and not flags & LOOKED_AT


@given(transport_packets(), st.sampled_from(HEADERS), st.sampled_from([60, 200, 1280]))
def test_ramp_pump_does_what_forward_does_or_looks(packet, headers, mtu):
    world = World(*headers, mtu=mtu)
    datagram = bytes(headers[0]) + packet
    with Ramp(headers[0]) as ramp:
        memoised(ramp, world, datagram, headers[0])
        assert ramp.give(datagram) == []
        sent = world.sent()
        if is_plain(packet) and len(packet) <= mtu:
            assert sent == world.twin(datagram)
            assert (world.path.packets, world.path.octets, ramp.slow) == (1, len(packet), [])
        else:
            assert (sent, ramp.slow, world.path.packets) == ([], [datagram], 0)


@given(transport_packets(), st.sampled_from([0, 10]), st.sampled_from([60, 200, 1280]), st.sampled_from([0, 1, 2, 3]))
def test_gue_pump_does_what_forward_does_or_looks(packet, header, mtu, mark):
    """Also with an outer mark, which first changes the packet or drops it (RFC 6040)."""
    world = World(0, header, mtu=mtu)
    with Port() as port:
        memoised(port, world, packet, 0)
        port.give(packet, tos=mark)
        changed = bytearray(packet)
        reason = arrive(changed, 0, mark)
        packet, sent = bytes(changed), world.sent()
        if reason is not None:
            assert (sent, port.slow, dict(port.drops)) == ([], [], {reason: 1})
        elif is_plain(packet) and len(packet) <= mtu:
            assert sent == world.twin(packet)
            assert (world.path.packets, world.path.octets, port.slow) == (1, len(packet), [])
        else:
            assert (sent, port.slow, world.path.packets) == ([], [packet], 0)


def super_packet(version: int, segment: int, payload: int, protocol: int = ip.TCP, **wrong: int) -> bytes:
    headers = 20 if version == 4 else 40
    l4 = TCP(sport=40_000, dport=80, flags="PA") if protocol == ip.TCP else UDP(sport=40_000, dport=80)
    packet = bytes(network(version) / l4 / Raw(bytes(payload)))
    kind = 5 if protocol == ip.UDP else 1 if version == 4 else 4
    fields = {"flags": 1, "kind": kind, "hdr": headers + 20, "size": segment, "start": headers,
              "offset": 16 if protocol == ip.TCP else 6, **wrong}  # fmt: skip
    return struct.pack("<BBHHHH", *fields.values()) + packet


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("protocol", [ip.TCP, ip.UDP])
def test_super_packet_passes_whole_where_its_segments_fit(version, protocol):
    headers = {ip.TCP: 20, ip.UDP: 8}[protocol] + (20 if version == 4 else 40)
    world = World(10, 10, mtu=1280)
    fits = super_packet(version, 1280 - headers, 9000, protocol)
    too_big = super_packet(version, 1281 - headers, 9000, protocol)
    with Ramp(10) as ramp:
        memoised(ramp, world, fits, 10)
        ramp.give(fits)
        assert world.sent() == world.twin(fits)
        ramp.give(too_big)
        assert (world.sent(), ramp.slow) == ([], [too_big])


@pytest.mark.parametrize(
    "wrong",
    [{"start": 24}, {"offset": 6}, {"kind": 4}, {"kind": 5}, {"size": 0}, {"flags": 0}, {"kind": 3}],
    ids=str,
)
def test_lying_virtio_header_is_looked_at(wrong):
    world, packet = World(10, 10), super_packet(4, 1000, 5000, **wrong)
    with Ramp(10) as ramp:
        memoised(ramp, world, packet, 10)
        ramp.give(packet)
        assert (world.sent(), ramp.slow) == ([], [packet])


def test_unfinished_checksum_goes_on_only_where_it_will_be_finished():
    packet = struct.pack("<BBHHHH", 1, 0, 0, 0, 20, 16) + tcp_packet(flags="A")
    for egress, passes in ((10, True), (0, False)):
        world = World(10, egress)
        with Ramp(10) as ramp:
            memoised(ramp, world, packet, 10)
            ramp.give(packet)
            assert (len(world.sent()), len(ramp.slow)) == (passes, not passes)


BAD = {
    "IP checksum": lambda p: p[:8] + b"\x09" + p[9:],
    "a fragment": lambda p: bytes(
        IP(src="100.96.0.2", dst="10.50.0.10", flags=1) / TCP(sport=40_000, dport=80, flags="A")
    ),
    "trailing bytes": lambda p: p + b"x",
    "cut": lambda p: p[:-1],
    "TCP of 12 bytes": lambda p: bytes(network(4, proto=6) / Raw(p[20:32])),
}


@pytest.mark.parametrize("name", BAD)
def test_what_is_odd_is_looked_at(name):
    good = tcp_packet(flags="A")
    odd = BAD[name](good)
    world = World(0, 0)
    with Ramp() as ramp, Port() as port:
        memoised(ramp, world, good, 0)
        memoised(port, world, good, 0)
        ramp.give(odd)
        port.give(odd)
        assert (world.sent(), ramp.slow, port.slow) == ([], [odd], [odd])


def test_datagrams_joined_by_the_kernel_are_taken_apart():
    world, packet = World(0, 0), udp_packet(4, bytes(500), dport=80)
    with Port() as port:
        memoised(port, world, packet, 0)
        for outer in (1, GRO, GRO + 1):
            port.give(*[packet] * outer, joined=True)
            assert world.sent() == world.twin(packet) * outer
        assert port.source.packets == 1 + GRO + GRO + 1


def test_each_datagram_of_a_batch_is_its_own_senders():
    """What was found out about one datagram serves the next one only where peer and header are the same."""
    world, packet = World(0, 0), udp_packet(4, b"payload", dport=80)
    longer = gue.header(4, gue.Context(7, 1, b"another token"))
    with Port() as port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as stranger:
        memoised(port, world, packet, 0)
        good = port.header(4) + packet
        stranger.bind(("127.0.0.2", 0))
        bad = [good[:20], b"", longer + packet, port.header(6) + packet]
        port.give(*[good] * 9, header=b"")  # of which remains lie behind what is shorter
        port.give(*(each for refused in bad for each in (good, refused)), packet, good, header=b"")
        assert world.sent() == world.twin(packet) * 15
        assert port.refused == bad
        port.refused.clear()
        port.put(good, header=b"")
        stranger.sendto(good, port.address)
        port.give(good, header=b"")
        assert (world.sent(), port.refused) == (world.twin(packet) * 2, [good])
        assert port.source.packets == 17


@pytest.mark.parametrize("version", [4, 6])
def test_header_of_the_next_site_stands_where_the_old_one_did(version):
    world, header = World(0, 0), gue.header(version, gue.Context(7, 2, b"a token that is longer than the site's own"))
    packets = [udp_packet(version, bytes([number]) * 300, dport=80) for number in range(3)]
    with Port() as port, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        sink.settimeout(20)
        peer_socket = PeerSocket(open_peer_socket("127.0.0.1", sink.getsockname(), 1), {version: header}, make_tenant())
        memoised(port, world, packets[0], 0)
        world.path.raw, world.path.peer_socket, world.path.prefix = peer_socket.raw, peer_socket, header
        for joined in (False, True):  # by the kernel
            port.give(*packets, joined=joined)
            assert [sink.recv(2000) for _ in packets] == [header + world.twin(each)[0] for each in packets]
        assert (peer_socket.packets, peer_socket.octets) == (6, 2 * sum(map(len, packets)))
        peer_socket.sock.close()


def test_header_of_another_version_does_not_lend_its_tunnel():
    """The header says IPv4, the packet is IPv6: whoever identifies headers refuses it."""
    packet = tcp_packet(6, flags="A")
    assert isinstance(IPv6(packet), IPv6)
    world = World(0, 0)
    with Port() as port:
        memoised(port, world, packet, 0)
        port.give(tcp_packet(4))
        port.slow.clear()
        port.give(packet, header=port.header(4))
        assert (world.sent(), port.slow, port.refused) == ([], [], [port.header(4) + packet])


@given(transport_packets(("tcp",)), st.binary(min_size=36, max_size=36))
def test_gue_pump_does_what_translate_does(packet, rewritten):
    """A site's flow that is lifted: to the kernel, translated."""
    key = key_of(packet, 0)
    with Port() as port:
        path = port.paths[key] = Path()
        set_rewrite(path, key, rewritten[: len(key)])
        wanted = bytearray(packet)
        translate(wanted, parsed(packet), path)
        if packet[parsed(packet).l4 + 13] & 6:  # SYN and RST are looked at
            assert (port.give(packet), port.slow, path.packets) == ([], [packet], 0)
            return
        assert port.give(packet) == [bytes(wanted)]
        assert (path.packets, path.octets, port.slow) == (1, len(packet), [])


@pytest.mark.parametrize("version", [4, 6])
def test_gue_pump_gives_sessions_their_datagrams(version):
    packet = udp_packet(version, b"payload")
    with Port() as port:
        seen = []
        port.sessions[key_of(packet, 0)] = lambda buffer, l4, end: seen.append(bytes(buffer[l4 + 8 : end]))
        port.give(packet, packet)
        assert (seen, port.slow) == ([b"payload"] * 2, [])

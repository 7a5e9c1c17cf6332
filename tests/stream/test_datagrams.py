"""UDP sessions and echo flows over real sockets: payloads both ways, sizes, errors of the network, ends."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import select
import socket

import pytest
from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.flow.fragments import Fragments
from proxy.hooks import Hooks
from proxy.packet.fragment import split
from proxy.settings.model import Timeouts
from proxy.stream.held_packets import MAX_PACKETS
from proxy.stream.mapping import Mapping
from tests.packets import CLIENT, decode, network, parsed, recomputed
from tests.stream.world import LOCALHOST, closed_port, world

FAMILIES = pytest.mark.parametrize("version", [4, 6])
MODES = pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])
IP_RECVTTL = 12
as_root = pytest.mark.skipif(os.geteuid() != 0, reason="echo sockets need CAP_NET_RAW or net.ipv4.ping_group_range")


@contextlib.contextmanager
def echo_server(version=4):
    with socket.socket(socket.AF_INET if version == 4 else socket.AF_INET6, socket.SOCK_DGRAM) as server:
        server.bind((LOCALHOST[version], 0))
        server.setblocking(False)
        yield server


def datagram(port: int, payload: bytes = b"hello", *, version: int = 4, sport: int = 40_000, **fields) -> bytes:
    head = network(version, dst=LOCALHOST[version], **fields)
    return bytes(head / UDP(sport=sport, dport=port) / Raw(payload))


def ping(payload: bytes = b"ping", *, version: int = 4, ident: int = 7, seq: int = 1) -> bytes:
    echo = ICMP(id=ident, seq=seq) if version == 4 else ICMPv6EchoRequest(id=ident, seq=seq)
    return bytes(network(version, dst=LOCALHOST[version]) / echo / Raw(payload))


def received(w, server):
    def attempt():
        try:
            return [server.recvfrom(70_000)]
        except BlockingIOError:
            return None

    return w.loop.until(attempt)[0]


def bounce(w, server, *, change=lambda payload: payload):
    payload, address = received(w, server)
    server.sendto(change(payload), address)
    return payload


def joined(packets):
    """What a client's kernel makes of the fragments."""
    fragments = Fragments(timeout_s=10, max_bytes=1 << 20)
    return [fragments.add(packet, parsed(packet), 0) for packet in packets][-1]


@FAMILIES
@MODES
def test_payloads_go_to_the_origin_and_answers_come_back(monkeypatch, version, offload):
    with echo_server(version) as server, world(monkeypatch, offload=offload) as w:
        port = server.getsockname()[1]
        assert w.give(datagram(port, b"one", version=version)) is None
        assert bounce(w, server, change=bytes.upper) == b"one"
        w.loop.until(lambda: w.tunnel.sent)
        (packet,) = w.tunnel.sent
        answer = decode(packet[w.tunnel.header_bytes :])
        assert (answer.src, answer.dst) == (LOCALHOST[version], CLIENT[version])
        assert (answer[UDP].sport, answer[UDP].dport, bytes(answer[UDP].payload)) == (port, 40_000, b"ONE")
        if offload:
            assert packet[0] == 1  # the client's kernel completes the checksum
        else:
            assert recomputed(packet) == packet
        flow = w.flow
        total = flow.totals()
        headers = 28 if version == 4 else 48
        assert (total.client_packets, total.client_bytes, total.client_payload_bytes) == (1, headers + 3, 3)
        assert (total.origin_packets, total.origin_bytes, total.origin_payload_bytes) == (1, headers + 3, 3)
        assert (flow.history, flow.state, flow.level, flow.conn_state()) == ("Dd", "established", "stream", "SF")
        assert flow.ttfb_ms > 0


@FAMILIES
@pytest.mark.parametrize("size", [0, 1, 1232, 1233, 1253, 30_000, 65_507])
def test_datagrams_of_every_size_arrive_whole_both_ways(monkeypatch, version, size):
    payload = random.Random(size).randbytes(size)
    with echo_server(version) as server, world(monkeypatch) as w:
        for piece in split(datagram(server.getsockname()[1], payload, version=version), 1280, 3):
            assert w.give(piece) is None
        assert bounce(w, server) == payload
        w.loop.until(lambda: w.tunnel.sent)
        packets = w.tunnel.take()
        assert all(len(packet) <= 1280 for packet in packets)
        whole = packets[0] if len(packets) == 1 else joined(packets)
        assert bytes(decode(whole)[UDP].payload) == payload


@FAMILIES
@MODES
def test_memoised_session_checks_what_the_plane_checked(monkeypatch, version, offload):
    with echo_server(version) as server, world(monkeypatch, offload=offload) as w:
        port = server.getsockname()[1]
        good = datagram(port, b"good", version=version)
        w.give(good)
        session = w.tunnel.sessions[w.flow.key]
        at = w.tunnel.header_bytes + (20 if version == 4 else 40)

        def run(packet, first=0):
            buffer = bytearray(w.tunnel.header_bytes) + packet
            if offload:
                buffer[0] = first
            return w.loop.call(lambda: session(buffer, at, len(buffer)))

        udp_at = at - w.tunnel.header_bytes
        bad = good[: udp_at + 6] + b"\x12\x34" + good[udp_at + 8 :]
        none = good[: udp_at + 6] + b"\0\0" + good[udp_at + 8 :]
        long = good[: udp_at + 4] + b"\x00\xff" + good[udp_at + 6 :]
        short = good[: udp_at + 4] + b"\x00\x07" + good[udp_at + 6 :]
        assert run(good) is None
        assert run(bad) is DropReason.BAD_L4_CHECKSUM
        assert run(none) is (None if version == 4 else DropReason.BAD_L4_CHECKSUM)
        if version == 4:
            mangled = good[:8] + bytes([good[8] ^ 0x10]) + good[9:]
            assert run(mangled) is DropReason.BAD_IP_CHECKSUM
            assert run(mangled[: udp_at + 6] + b"\0\0" + mangled[udp_at + 8 :]) is DropReason.BAD_IP_CHECKSUM
        assert run(long) is DropReason.TRUNCATED
        assert run(short) is DropReason.TRUNCATED
        if offload:
            assert run(bad, first=1) is None  # its checksum is partial: nobody has computed it yet
        expected = 2 + (version == 4) + offload
        for _ in range(expected):
            assert received(w, server)[0] == b"good"
        assert w.flow.client_path.packets == expected


def test_time_to_live_of_the_client_counts_towards_the_origin(monkeypatch):
    with echo_server() as server, world(monkeypatch) as w:
        server.setsockopt(socket.IPPROTO_IP, IP_RECVTTL, 1)
        for ttl in (64, 9):
            w.give(datagram(server.getsockname()[1], ttl=ttl))
            w.loop.until(lambda: select.select([server], [], [], 0)[0])
            _, ancillary, _, _ = server.recvmsg(100, 100)
            assert ancillary[0][2][0] == ttl - 1


@FAMILIES
def test_closed_port_is_told_by_whoever_said_so(monkeypatch, version):
    with world(monkeypatch) as w:
        port = closed_port(version, socket.SOCK_DGRAM)
        w.give(datagram(port, b"question", version=version))
        w.loop.until(lambda: w.tunnel.sent)
        kind = {4: "ICMP 3/3", 6: "ICMPv6 1/4"}[version]
        (packet,) = w.tunnel.sent
        assert w.replies() == [f"{LOCALHOST[version]} > {CLIENT[version]} {kind} about {LOCALHOST[version]}"]
        quoted = packet[28 if version == 4 else 48 :]
        assert decode(quoted).src == CLIENT[version]
        assert bytes(quoted)[-8:] == b"question"
        assert not w.flow.is_ended  # the next datagram may be answered


def test_flood_to_a_closed_port_does_not_spin(monkeypatch):
    """Each ICMP error waits on the socket until it is read; one that is left would wake us for ever."""
    calls, ready = [], Mapping.ready
    monkeypatch.setattr(Mapping, "ready", lambda self, events: (calls.append(events), ready(self, events)))
    with world(monkeypatch) as w:
        w.give_all(*[datagram(closed_port(4, socket.SOCK_DGRAM))] * 40)
        w.loop.until(lambda: len(w.tunnel.sent) >= 20)
        w.loop.turns(20)
        calls.clear()
        w.loop.turns(50)
        assert calls == []


def test_session_ends_when_it_is_idle_sooner_without_an_answer(monkeypatch):
    timeouts = Timeouts(udp_unreplied_s=10, udp_idle_s=100, dns_idle_s=4)
    with echo_server() as server, world(monkeypatch, timeouts=timeouts) as w:
        w.give(datagram(server.getsockname()[1]))
        flow = w.flow
        for step in range(1, 6):
            w.tick(3.0 * step)
        assert flow.close_reason == "client_idle_timeout"
        assert list(w.tenant.live()) == []
        assert w.tunnel.sessions == {}
        assert w.events() == ["start", "connected", "end"]


def test_answered_session_lives_longer_and_traffic_keeps_it(monkeypatch):
    with echo_server() as server, world(monkeypatch, timeouts=Timeouts(udp_unreplied_s=4, udp_idle_s=40)) as w:
        w.give(datagram(server.getsockname()[1]))
        bounce(w, server)
        w.loop.until(lambda: w.tunnel.sent)
        flow = w.flow
        for step in range(1, 4):
            w.tick(11.0 * step)
        assert not flow.is_ended
        w.give(datagram(server.getsockname()[1]))
        for step in range(4, 7):
            w.tick(11.0 * step)
        assert not flow.is_ended
        for step in range(7, 10):
            w.tick(11.0 * step)
        assert flow.close_reason == "client_idle_timeout"


class Denying(Hooks):
    """Says no when it is let: how soon asyncio would run it differs from one Python to the next."""

    def __init__(self):
        self.may_answer = asyncio.Event()

    async def flow_start(self, flow):
        await self.may_answer.wait()
        return "no"


@FAMILIES
@MODES
def test_denied_session_is_told_and_sends_nothing(monkeypatch, version, offload):
    hooks = Denying()
    with echo_server(version) as server, world(monkeypatch, hooks=hooks, offload=offload) as w:
        port = server.getsockname()[1]
        packet = datagram(port, version=version)
        assert w.give_all(*[packet] * (MAX_PACKETS + 2)) == [None] * (MAX_PACKETS + 1) + [DropReason.HELD]
        assert w.tenant.held_bytes == MAX_PACKETS * (w.tunnel.header_bytes + len(packet))
        w.loop.call(hooks.may_answer.set)
        w.loop.until(lambda: w.tunnel.sent)
        assert (w.tenant.held_bytes, w.tenant.drops[DropReason.HELD]) == (0, MAX_PACKETS)
        hop = {4: "192.0.0.8", 6: "fd6f:7879::1"}[version]
        kind = {4: "ICMP 3/13", 6: "ICMPv6 1/1"}[version]
        assert w.replies() == [f"{hop} > {CLIENT[version]} {kind} about {LOCALHOST[version]}"]
        (end,) = [record for record in w.records if record.event == "end"]
        assert (end.verdict, end.close_reason, end.conn_state) == ("denied", "denied", "S0")
        with pytest.raises(BlockingIOError):
            server.recv(10)


def test_no_descriptors_left_is_a_reason(monkeypatch):
    with world(monkeypatch, descriptors=0) as w:
        assert w.give(datagram(53)) is DropReason.NO_DESCRIPTORS
        assert w.records == []


@as_root
@FAMILIES
@MODES
def test_ping_asks_the_origin_and_bears_the_clients_identifier(monkeypatch, version, offload):
    with world(monkeypatch, offload=offload) as w:
        for seq in (1, 2):
            w.give(ping(b"payload!", version=version, ident=4321, seq=seq))
            w.loop.until(lambda: w.tunnel.sent)
            (packet,) = w.tunnel.take()
            assert recomputed(packet) == packet
            answer = decode(packet)
            echo = answer[ICMP] if version == 4 else answer[ICMPv6EchoReply]
            assert (answer.src, answer.dst) == (LOCALHOST[version], CLIENT[version])
            assert (echo.id, echo.seq) == (4321, seq)
            assert packet.endswith(b"payload!")
        flow = w.flow
        assert (flow.protocol, flow.source_port) == ("icmp" if version == 4 else "icmpv6", 4321)
        assert (flow.client_path.packets, flow.origin_path.packets) == (2, 2)
        assert (flow.client_payload, flow.origin_payload) == (16, 16)


@as_root
@FAMILIES
def test_big_ping_comes_back_in_fragments(monkeypatch, version):
    payload = random.Random(5).randbytes(8000)
    with world(monkeypatch) as w:
        for piece in split(ping(payload, version=version), 1280, 9):
            w.give(piece)
        w.loop.until(lambda: w.tunnel.sent)
        packets = w.tunnel.take()
        assert len(packets) > 6
        assert joined(packets).endswith(payload)


@as_root
def test_identifiers_of_one_client_are_flows_of_their_own(monkeypatch):
    with world(monkeypatch) as w:
        w.give_all(ping(ident=1), ping(ident=2), ping(ident=1, seq=2))
        w.loop.until(lambda: len(w.tunnel.sent) == 3)
        answers = sorted((decode(p)[ICMP].id, decode(p)[ICMP].seq) for p in w.tunnel.take())
        assert answers == [(1, 1), (1, 2), (2, 1)]
        assert len(list(w.tenant.live())) == 2

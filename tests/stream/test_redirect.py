"""A flow that a verdict sends to another origin: that one is dialled, and the client never notices."""

from __future__ import annotations

import contextlib
import socket

import pytest
from scapy.layers.inet import ICMP, TCP, UDP, IPerror
from scapy.layers.inet6 import ICMPv6DestUnreach
from scapy.packet import Raw

from proxy.device.memory import MemoryTunnel
from proxy.hooks import Hooks, Verdict
from proxy.stream.udp_tunnel import UdpTunnelSession
from tests.loops import running
from tests.packets import CLIENT, ORIGIN, decode, network, recomputed
from tests.stream.test_datagrams import as_root, echo_server, ping, received
from tests.stream.test_udp_tunnel import Scene
from tests.stream.world import LOCALHOST, closed_port, listening, world

FAMILIES = pytest.mark.parametrize("version", [4, 6])
ASKED = {4: "203.0.113.5", 6: "2001:db8::5"}


class Redirecting(Hooks):
    def __init__(self, version, port):
        self.origin = LOCALHOST[version], port

    async def flow_start(self, flow):
        return Verdict(origin=self.origin, reason="quarantine")


def syn(version):
    return bytes(network(version, dst=ASKED[version]) / TCP(sport=40_000, dport=443, flags="S", seq=1000))


def datagram(version, payload=b"question", sport=40_000):
    return bytes(network(version, dst=ASKED[version]) / UDP(sport=sport, dport=53) / Raw(payload))


@FAMILIES
def test_connection_goes_to_the_other_origin(monkeypatch, version):
    with listening(version) as help_page:
        port = help_page.getsockname()[1]
        with world(monkeypatch, hooks=Redirecting(version, port)) as w:
            assert w.give(syn(version)) is None
            w.loop.until(lambda: w.bridge.written)
            client = w.accept(w.flow)
            far, _ = help_page.accept()
            w.sockets.append(far)
            far.setblocking(False)
            client.send(b"GET /")
            assert _read(w, far) == b"GET /"
            record = w.lifecycle.snapshot(w.flow)
            text = f"[{LOCALHOST[6]}]" if version == 6 else LOCALHOST[4]
            assert (record.dst, record.dst_port, record.origin) == (ASKED[version], 443, f"{text}:{port}")
            assert (record.verdict, record.level, record.offramp) == ("redirected", "stream", "socket")


def _read(w, sock):
    def attempt():
        with contextlib.suppress(BlockingIOError):
            return sock.recv(100)

    return w.loop.until(attempt)


@FAMILIES
def test_refusal_of_the_other_origin_is_the_clients(monkeypatch, version):
    with world(monkeypatch, hooks=Redirecting(version, closed_port(version))) as w:
        w.give(syn(version))
        w.loop.until(lambda: w.tunnel.sent)
        assert w.replies() == [f"{ASKED[version]} > {CLIENT[version]} TCP RA seq 0 ack 1001"]


@FAMILIES
def test_datagrams_go_to_the_other_origin_and_come_back_from_where_the_client_asked(monkeypatch, version):
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(echo_server(version))
        w = stack.enter_context(world(monkeypatch, hooks=Redirecting(version, server.getsockname()[1])))
        w.give(datagram(version))
        data, address = received(w, server)
        assert data == b"question"
        server.sendto(b"answer", address)
        w.loop.until(lambda: w.tunnel.sent)
        (packet,) = w.tunnel.take()
        answer = decode(packet)
        assert (answer.src, answer[UDP].sport, bytes(answer[UDP].payload)) == (ASKED[version], 53, b"answer")
        w.give(datagram(version, b"again"))
        assert received(w, server)[0] == b"again"


def test_datagrams_that_nobody_takes_are_told_of_the_address_that_was_asked(monkeypatch):
    with world(monkeypatch, hooks=Redirecting(4, closed_port(4, socket.SOCK_DGRAM))) as w:
        w.give(datagram(4))
        w.loop.until(lambda: w.tunnel.sent)
        (packet,) = w.tunnel.take()
        error = decode(packet)
        assert (error[ICMP].type, error[ICMP].code, error[IPerror].dst) == (3, 3, ASKED[4])


@as_root
@FAMILIES
def test_ping_is_answered_by_the_other_origin(monkeypatch, version):
    with world(monkeypatch, hooks=Redirecting(version, 1)) as w:
        packet = ping(version=version)
        asked = decode(packet)
        asked.dst = ASKED[version]
        w.give(recomputed(bytes(asked)))
        w.loop.until(lambda: w.tunnel.sent)
        (answer,) = w.tunnel.take()
        assert decode(answer).src == ASKED[version]


@FAMILIES
def test_datagrams_into_a_tunnel_bear_the_other_address(version):
    target = {4: "10.50.0.99", 6: "fd00:50::99"}[version]
    with running() as loop:
        scene = Scene(loop, version)
        scene.flow.redirect = socket.inet_pton(socket.AF_INET if version == 4 else socket.AF_INET6, target), 5353
        scene.session = UdpTunnelSession(scene.session.plane, scene.flow)
        scene.open()
        (sent,) = scene.site.take()
        question = decode(sent)
        assert (question.src, question.dst, question[UDP].dport) == (CLIENT[version], target, 5353)
        reply = network(version, target, CLIENT[version]) / UDP(sport=5353, dport=40_000) / Raw(b"answer")
        assert scene.give(scene.site, bytes(reply)) is None
        (back,) = scene.client.take()
        assert (decode(back).src, decode(back)[UDP].sport) == (ORIGIN[version], 53)
        assert scene.report(scene.site, _unreachable(version), sent) is None
        (error,) = scene.client.take()
        quoted = decode(error)
        assert ORIGIN[version] in repr(quoted)
        assert target not in repr(quoted)
        assert isinstance(scene.site, MemoryTunnel)
        loop.call(lambda: scene.session.end("drain"))


def _unreachable(version):
    return ICMP(type=3, code=1) if version == 4 else ICMPv6DestUnreach(code=3)

"""TCP flows whose origin is behind a tunnel: the leg stands in for it, and lives until the far host has everything."""

from __future__ import annotations

import errno
import socket
import time

import pytest
from scapy.layers.inet import ICMP, TCP
from scapy.packet import Raw

from proxy.device.memory import MemoryTunnel
from proxy.stream.relay import LINGER_RESET
from tests.flows import make_flow
from tests.packets import CLIENT, ORIGIN, network, parsed
from tests.stream.relays import tcp_pair
from tests.stream.world import world


class MemoryLeg:
    """A leg whose kernel is a connection over loopback; what it is asked is kept."""

    code = errno.EINPROGRESS

    def __init__(self, sock):
        self.sock = sock
        self.asked = []

    def packet(self, buffer, packet):
        self.asked.append("packet")

    def error(self, buffer, packet):
        self.asked.append("error")

    def forget_answers(self):
        self.asked.append("forget_answers")

    def release(self):
        self.asked.append("release")


class Scene:
    """A flow that is dialled down a tunnel; `far` is the far host's end of its connection."""

    def __init__(self, w, *, buffers=None):
        self.w = w
        near, self.far = tcp_pair(buffers=buffers)
        w.sockets.append(self.far)
        self.leg, self.dialled = MemoryLeg(near), []
        w.tcp.dialer = self
        self.site = MemoryTunnel(w.tenant, list(ORIGIN.values()), tunnel_id="site")
        self.flow = make_flow(w.tenant, carrier=w.tunnel, now=time.monotonic())
        self.flow.egress = self.site
        syn = bytearray(bytes(network(4) / TCP(sport=40_000, dport=80, flags="S", seq=1000)))
        w.loop.call(lambda: w.tcp.open(self.flow, syn, parsed(syn)))

    def dial(self, flow, egress, tos=0):
        self.dialled.append((flow, egress))
        return self.leg

    def establish(self):
        """Both handshakes; the client's far end."""
        self.w.loop.until(lambda: self.w.bridge.written)
        return self.w.accept(self.flow)

    def read(self):
        """What has come to the far host, b"" while nothing has."""
        try:
            return self.far.recv(65_536)
        except BlockingIOError:
            return b""

    def give(self, carrier, packet):
        buffer = bytearray(packet)
        return self.flow.handler.packet(carrier, buffer, parsed(buffer))

    def report(self, carrier, about):
        buffer = bytearray(bytes(network(4, "192.0.2.1", CLIENT[4]) / ICMP(type=3, code=1) / Raw(about)))
        return self.flow.handler.error(carrier, buffer, parsed(buffer))


def reply(flags="SA"):
    return bytes(network(4, ORIGIN[4], CLIENT[4]) / TCP(sport=80, dport=40_000, flags=flags, seq=1, ack=1001))


def question(flags="A"):
    return bytes(network(4) / TCP(sport=40_000, dport=80, flags=flags, seq=1001))


def test_flow_with_an_egress_is_dialled_there_with_the_clients_own_address(monkeypatch):
    with world(monkeypatch) as w:
        scene = Scene(w)
        client = scene.establish()
        assert scene.dialled == [(scene.flow, scene.site)]
        record = w.lifecycle.snapshot(scene.flow)
        assert (record.level, record.offramp, record.egress_ip) == ("stream", "tunnel", CLIENT[4])
        client.send(b"question")
        assert w.loop.until(scene.read) == b"question"


def test_packets_of_each_side_are_for_its_own_kernel_socket(monkeypatch):
    with world(monkeypatch) as w:
        scene = Scene(w)
        scene.establish()
        before = len(w.bridge.written)
        assert scene.give(scene.site, reply()) is None
        assert (scene.leg.asked, len(w.bridge.written)) == (["packet"], before)
        assert scene.give(w.tunnel, question()) is None
        assert (scene.leg.asked, len(w.bridge.written)) == (["packet"], before + 1)


def test_errors_are_for_the_kernel_socket_that_sent_what_they_quote(monkeypatch):
    with world(monkeypatch) as w:
        scene = Scene(w)
        scene.establish()
        assert scene.report(scene.site, question()) is None
        assert (scene.leg.asked, w.bridge.reported) == (["error"], [])
        assert scene.report(w.tunnel, reply()) is None
        assert (scene.leg.asked, w.bridge.reported) == (["error"], [scene.flow.virtual[2]])


@pytest.mark.parametrize("end", ["read", "reset", "tunnel"])
def test_what_the_far_host_has_not_got_yet_is_not_given_up(monkeypatch, end):
    """The relay is over when the kernel has all bytes; the leg is over when the far host has them."""
    with world(monkeypatch) as w:
        scene = Scene(w, buffers={"near_snd": 1 << 20, "far_rcv": 4096})
        client = scene.establish()
        data = bytes(400_000)
        sent = w.loop.until(lambda: client.send(data))
        client.shutdown(socket.SHUT_WR)
        scene.far.shutdown(socket.SHUT_WR)
        w.loop.until(lambda: scene.flow.is_ended)
        for seconds in (1, 2, 3, 4, 5):
            w.tick(seconds)
        assert "end" not in w.events()
        assert scene.leg.asked == ["forget_answers"]
        if end == "read":
            got = 0
            while got < sent:
                got += len(w.loop.until(scene.read))
        elif end == "reset":
            scene.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_RESET)
            scene.far.close()
        else:
            scene.site.is_closed = True
        for seconds in (6, 7, 8, 12, 13):
            w.tick(seconds)
        assert w.events()[-1] == "end"
        assert scene.leg.asked == ["forget_answers", "release"]
        assert scene.leg.sock.fileno() == -1

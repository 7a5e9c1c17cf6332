"""Sockets of the real kernel whose packets come out at a tunnel: the test is the far host."""

from __future__ import annotations

import errno
import os
import socket

import pytest
from scapy.layers.inet import ICMP, TCP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.kernel.bridge import Bridge
from proxy.kernel.dialer import POOL, Dialer
from proxy.kernel.private import PrivateNamespace
from proxy.kernel.pump import BridgePump
from proxy.offramps.sockets import network_error
from proxy.poller import IN
from tests.flows import make_flow, make_tenant, make_tunnel
from tests.loops import running
from tests.packets import CLIENT, ORIGIN, decode, network, parsed, recomputed

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace in this process: needs root"),
]
FAMILIES = pytest.mark.parametrize("version", [4, 6])
ROUTER = {4: "192.0.2.1", 6: "2001:db8::1"}
SEGMENT_HEADERS = {4: 40, 6: 60}


class Scene:
    """A private namespace with both bridges and a dialer; tunnels are in memory."""

    def __init__(self, loop):
        self.loop = loop
        self.namespace = PrivateNamespace()
        self.bridges = {head: Bridge(self.namespace, offload=head > 0, mtu=1500, backlog=8) for head in (0, 10)}
        self.pumps = {head: BridgePump(bridge.tun, head, bridge.paths) for head, bridge in self.bridges.items()}
        self.dialer = Dialer(self.namespace, self.bridges)
        self.legs = []
        loop.call(self._start)

    def _start(self):
        for head, bridge in self.bridges.items():
            self.loop.poller.watch(bridge.tun, IN, self.pumps[head].ready, self.pumps[head].crashed)

    def dial(self, version, *, offload=False, mtu=1280, tenant="acme", port=40_000):
        """A leg that is connecting, and what stands for the far host."""
        tenant = make_tenant(tenant)
        flow = make_flow(tenant, version=version, source_port=port)
        egress = make_tunnel(tenant, offload=offload, mtu=mtu, tunnel_id="site")
        leg = self.loop.call(lambda: self.dialer.dial(flow, egress))
        self.legs.append(leg)
        return Far(self.loop, leg, flow, egress, version, port)

    def close(self):
        for leg in self.legs:
            leg.sock.close()
        self.dialer.close()
        for bridge in self.bridges.values():
            self.loop.call(lambda bridge=bridge: bridge.close(self.loop.poller))
        self.namespace.close()


class Far:
    """The host behind the tunnel: reads what comes, answers as it likes."""

    def __init__(self, loop, leg, flow, egress, version, port):
        self.loop, self.leg, self.flow, self.egress, self.version, self.port = loop, leg, flow, egress, version, port

    def packets(self):
        """What has come through the tunnel."""
        self.loop.until(lambda: self.egress.sent)
        sent = list(self.egress.sent)
        self.egress.sent.clear()
        head = self.egress.header_bytes
        for packet in sent:
            if not (head and packet[0] & 1):  # a partial checksum is for the far device to finish
                assert recomputed(packet[head:]) == packet[head:]
        return [decode(packet[head:]) for packet in sent]

    def answer(self, flags, *, payload=b"", **fields):
        raw = bytes(
            network(self.version, ORIGIN[self.version], CLIENT[self.version])
            / TCP(sport=80, dport=self.port, flags=flags, **fields)
            / Raw(payload)
        )
        buffer = bytearray(self.egress.header_bytes) + raw
        assert self.leg.packet(buffer, parsed(buffer, self.egress.header_bytes)) is None

    def report(self, message, about):
        """An ICMP error from a router on the way, which quotes `about`."""
        raw = bytes(network(self.version, ROUTER[self.version], CLIENT[self.version]) / message / Raw(bytes(about)))
        buffer = bytearray(self.egress.header_bytes) + raw
        return self.leg.error(buffer, parsed(buffer, self.egress.header_bytes))

    def establish(self, seq=5000):
        """Answer the SYN; the sequence number of the socket's first byte."""
        (syn,) = self.packets()
        self.answer("SA", seq=seq, ack=syn[TCP].seq + 1, options=[("MSS", 1460)])
        (done,) = self.packets()
        assert (done[TCP].flags, done[TCP].ack) == ("A", seq + 1)
        return syn[TCP].seq + 1

    def outcome(self):
        """What connect(2) has come to: 0, or its errno."""
        waiting = lambda: self.leg.sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)  # noqa: E731
        return self.loop.until(waiting)


@pytest.fixture
def scene():
    with running() as loop:
        made = Scene(loop)
        yield made
        made.close()


BOTH = pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])


@BOTH
@FAMILIES
def test_syn_leaves_from_the_clients_own_address_to_the_destination(scene, version, offload):
    far = scene.dial(version, offload=offload, mtu=1400)
    (syn,) = far.packets()
    assert (syn.src, syn.dst) == (CLIENT[version], ORIGIN[version])
    assert (syn[TCP].sport, syn[TCP].dport, syn[TCP].flags) == (40_000, 80, "S")
    assert dict(syn[TCP].options)["MSS"] == 1400 - SEGMENT_HEADERS[version]


@BOTH
@FAMILIES
def test_bytes_and_fin_cross_both_ways(scene, version, offload):
    far = scene.dial(version, offload=offload)
    seq = far.establish()
    sock = far.leg.sock
    assert (sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR), far.leg.code) == (0, errno.EINPROGRESS)
    sock.send(b"question")
    (question,) = far.packets()
    assert (bytes(question[TCP].payload), question[TCP].seq) == (b"question", seq)
    far.answer("PA", seq=5001, ack=seq + 8, payload=b"answer")
    assert sock.recv(100) == b"answer"
    far.answer("FA", seq=5007, ack=seq + 8)
    assert sock.recv(100) == b""
    far.packets()  # acknowledgements
    sock.shutdown(socket.SHUT_WR)
    assert "F" in far.packets()[-1][TCP].flags


@FAMILIES
def test_segments_never_exceed_the_tunnel_whatever_the_far_host_offers(scene, version):
    far = scene.dial(version, mtu=1300)
    far.establish()
    far.leg.sock.send(bytes(4000))
    sizes = [len(bytes(packet)) for packet in far.packets()]
    assert max(sizes) == 1300


@FAMILIES
def test_super_packets_say_segments_that_fit_the_tunnel(scene, version):
    far = scene.dial(version, mtu=1300, offload=True)
    far.establish()
    far.leg.sock.send(bytes(8000))
    scene.loop.until(lambda: far.egress.sent)
    largest = max(far.egress.sent, key=len)
    assert len(largest) > 1400
    options = (decode(largest[10:])[TCP].dataofs - 5) * 4
    assert int.from_bytes(largest[4:6], "little") + SEGMENT_HEADERS[version] + options == 1300


@BOTH
@FAMILIES
def test_reset_of_the_syn_is_connection_refused(scene, version, offload):
    far = scene.dial(version, offload=offload)
    (syn,) = far.packets()
    far.answer("RA", ack=syn[TCP].seq + 1)
    assert far.outcome() == errno.ECONNREFUSED
    assert network_error(far.leg.sock) is None


UNREACHABLE = [
    (4, ICMP(type=3, code=0), errno.ENETUNREACH),
    (4, ICMP(type=3, code=1), errno.EHOSTUNREACH),
    (4, ICMP(type=3, code=13), errno.EHOSTUNREACH),
    (4, ICMP(type=11, code=0), errno.EHOSTUNREACH),
    (6, ICMPv6DestUnreach(code=0), errno.ENETUNREACH),
    (6, ICMPv6DestUnreach(code=3), errno.EHOSTUNREACH),
    (6, ICMPv6DestUnreach(code=1), errno.EACCES),
]


@BOTH
@pytest.mark.parametrize(("version", "message", "code"), UNREACHABLE)
def test_error_about_the_syn_is_the_connects_and_names_the_router(scene, version, message, code, offload):
    far = scene.dial(version, offload=offload)
    (syn,) = far.packets()
    assert far.report(message, syn) is None
    assert far.outcome() == code
    report = network_error(far.leg.sock)
    assert (report.kind, report.code) == (bytes(message)[0], bytes(message)[1])
    assert socket.inet_ntop(socket.AF_INET if version == 4 else socket.AF_INET6, report.offender) == ROUTER[version]


@pytest.mark.parametrize("quoted", [b"", b"E", bytes(27), b"\x46" + bytes(60), b"\x60" + bytes(46)])
def test_quotes_that_cannot_be_ours_reach_no_socket(scene, quoted):
    far = scene.dial(4)
    far.packets()
    assert far.report(ICMP(type=3, code=1), quoted) is DropReason.ICMP_UNSUPPORTED


def test_redirects_reach_no_socket(scene):
    far = scene.dial(4)
    (syn,) = far.packets()
    assert far.report(ICMP(type=5, code=1), syn) is DropReason.ICMP_UNSUPPORTED


@FAMILIES
def test_packet_too_big_makes_segments_smaller_and_those_of_other_flows_not(scene, version):
    far, other = scene.dial(version, mtu=1480), scene.dial(version, mtu=1480, port=40_001)
    far.establish()
    other.establish()
    far.leg.sock.send(bytes(1400))
    (full,) = far.packets()
    assert len(bytes(full)) > 1400
    too_big = ICMP(type=3, code=4, nexthopmtu=1290) if version == 4 else ICMPv6PacketTooBig(mtu=1290)
    assert far.report(too_big, full) is None
    again = far.packets()
    assert max(len(bytes(packet)) for packet in again) == 1290
    assert sum(len(bytes(packet[TCP].payload)) for packet in again) == 1400
    other.leg.sock.send(bytes(1400))
    (whole,) = other.packets()
    assert len(bytes(whole)) == len(bytes(full))


@FAMILIES
def test_equal_flows_of_two_tenants_never_meet(scene, version):
    one, two = scene.dial(version, tenant="acme"), scene.dial(version, tenant="globex")
    seq = {far: far.establish() for far in (one, two)}
    one.answer("PA", seq=5001, ack=seq[one], payload=b"for one")
    two.answer("PA", seq=5001, ack=seq[two], payload=b"for two")
    assert (one.leg.sock.recv(100), two.leg.sock.recv(100)) == (b"for one", b"for two")


@FAMILIES
def test_leg_that_is_released_sends_and_takes_nothing_more(scene, version):
    far = scene.dial(version)
    far.establish()
    assert len(far.egress.paths) == 1
    scene.loop.call(far.leg.release)
    assert far.egress.paths == {}
    strays = scene.pumps[0].strays
    far.leg.sock.send(b"x")
    scene.loop.until(lambda: scene.pumps[0].strays > strays)
    assert far.egress.sent == []


def test_paths_of_a_later_leg_survive_the_release_of_an_earlier(scene):
    far = scene.dial(4)
    later = scene.loop.call(lambda: scene.dialer.dial(far.flow, far.egress))
    scene.legs.append(later)
    far.leg.release()
    assert list(far.egress.paths.values()) == [later.inward]


def test_sockets_are_made_by_the_poolful(scene, monkeypatch):
    visits = []
    run = scene.namespace.run
    monkeypatch.setattr(scene.namespace, "run", lambda *arguments: visits.append(arguments) or run(*arguments))
    for port in range(POOL + 1):
        scene.dial(4, port=10_000 + port)
    assert len(visits) == 2

"""The bridge with the real kernel: a client's packets become a socket, and the socket's bytes become packets."""

from __future__ import annotations

import os
import socket
import threading

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Raw

from proxy.kernel import bridge
from proxy.kernel.bridge import Bridge
from proxy.kernel.private import PrivateNamespace
from proxy.kernel.pump import BridgePump
from proxy.poller import IN
from proxy.wire import icmp
from tests.flows import make_flow, make_tenant, make_tunnel
from tests.loops import open_descriptors, running
from tests.packets import CLIENT, ORIGIN, decode, network, parsed, recomputed

pytestmark = [
    pytest.mark.netns,
    pytest.mark.skipif(os.geteuid() != 0, reason="makes a network namespace in this process: needs root"),
]
FAMILIES = pytest.mark.parametrize("version", [4, 6])
MODES = pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])


class Scene:
    """A private namespace with one bridge, and a tunnel in memory on this side of it."""

    def __init__(self, loop, *, offload):
        self.loop = loop
        self.namespace = PrivateNamespace()
        self.bridge = Bridge(self.namespace, offload=offload, mtu=1500, backlog=64)
        self.pump = BridgePump(self.bridge.tun, 10 if offload else 0, self.bridge.paths)
        self.tenant = make_tenant()
        self.accepted = []
        loop.call(self._start)

    def _start(self):
        self.loop.poller.watch(self.bridge.tun, IN, self.pump.ready, self.pump.crashed)
        self.bridge.start(self.loop.poller, lambda flow, sock: self.accepted.append((flow, sock)))

    def flow(self, version, port, name="t1"):
        tunnel = make_tunnel(self.tenant, offload=self.bridge.offload, tunnel_id=name)
        flow = make_flow(self.tenant, version=version, source_port=port, carrier=tunnel)
        self.bridge.admit(flow)
        return flow

    def give(self, flow, flags, *, seq, ack=0, payload=b"", **fields):
        version = 4 if len(flow.source) == 4 else 6
        raw = bytes(
            network(version)
            / TCP(sport=flow.source_port, dport=80, flags=flags, seq=seq, ack=ack, **fields)
            / Raw(payload)
        )
        buffer = bytearray(flow.carrier.header_bytes) + raw
        assert self.bridge.write(buffer, parsed(buffer, flow.carrier.header_bytes), flow.client_path) is None

    def segments(self, flow):
        """What came back for `flow`, as the client would read it."""
        self.loop.until(lambda: flow.carrier.sent)
        packets = flow.carrier.sent[:]
        flow.carrier.sent.clear()
        for packet in packets:
            bare = packet[flow.carrier.header_bytes :]
            if not (flow.carrier.header_bytes and packet[0] & 1):
                assert recomputed(bare) == bare
        return [decode(packet[flow.carrier.header_bytes :]) for packet in packets]

    def connect(self, flow, seq=100):
        """The client's handshake; the accepted socket and the kernel's next sequence number."""
        self.give(flow, "S", seq=seq, options=[("MSS", 1240)])
        (answer,) = self.segments(flow)
        assert (answer[TCP].flags, answer[TCP].ack) == ("SA", seq + 1)
        self.give(flow, "A", seq=seq + 1, ack=answer[TCP].seq + 1)
        self.loop.until(lambda: flow in [accepted for accepted, _ in self.accepted])
        sock = next(sock for accepted, sock in self.accepted if accepted is flow)
        return sock, answer[TCP].seq + 1

    def close(self):
        for _, sock in self.accepted:
            sock.close()
        self.loop.call(lambda: self.bridge.close(self.loop.poller))
        self.namespace.close()


@pytest.fixture
def scene(request):
    with running() as loop:
        made = Scene(loop, offload=getattr(request, "param", False))
        yield made
        made.close()


BOTH = pytest.mark.parametrize("scene", [False, True], ids=["plain", "offload"], indirect=True)


@BOTH
@FAMILIES
def test_handshake_data_and_fin_of_a_client_are_those_of_a_socket(scene, version):
    flow = scene.flow(version, 40_000)
    sock, ack = scene.connect(flow)
    scene.give(flow, "PA", seq=101, ack=ack, payload=b"question")
    scene.loop.until(lambda: flow.origin_path.packets >= 2)
    assert sock.recv(100) == b"question"
    sock.send(b"answer")
    answers = scene.segments(flow)
    assert b"".join(bytes(segment[TCP].payload) for segment in answers) == b"answer"
    assert {(segment.src, segment.dst) for segment in answers} == {(ORIGIN[version], CLIENT[version])}
    assert {(segment[TCP].sport, segment[TCP].dport) for segment in answers} == {(80, 40_000)}
    scene.give(flow, "FA", seq=109, ack=ack + 6)
    scene.loop.until(lambda: flow.carrier.sent)
    assert sock.recv(100) == b""


def test_peers_have_an_address_each_and_another_port_when_addresses_begin_anew(scene, monkeypatch):
    monkeypatch.setattr(bridge, "PEERS", 2)
    peers = [scene.bridge.next_peer(4) for _ in range(4)]
    assert [text for text, _, _ in peers] == ["248.0.0.1", "248.0.0.2"] * 2
    assert [socket.inet_ntoa(packed) for _, packed, _ in peers] == [text for text, _, _ in peers]
    assert [port for _, _, port in peers] == [1024, 1024, 1025, 1025]
    first, second = (text for text, _, _ in (scene.bridge.next_peer(6), scene.bridge.next_peer(6)))
    assert first != second


@BOTH
@FAMILIES
def test_each_accepted_socket_is_that_of_its_flow(scene, version):
    """Clients of two tunnels with the same address and port: the virtual addresses tell them apart."""
    flows = [scene.flow(version, 40_000, name) for name in ("t1", "t2", "t3")]
    for flow in flows:
        scene.connect(flow)
    for number, flow in enumerate(flows):
        sock = next(sock for accepted, sock in scene.accepted if accepted is flow)
        sock.send(f"for {number}".encode())
    for number, flow in enumerate(flows):
        assert f"for {number}".encode() in b"".join(bytes(segment[TCP].payload) for segment in scene.segments(flow))


def test_released_flow_gets_nothing_more(scene):
    flow = scene.flow(4, 40_000)
    sock, _ = scene.connect(flow)
    scene.bridge.release(flow)
    scene.bridge.release(flow)
    strays = scene.pump.strays
    sock.send(b"too late")
    scene.loop.until(lambda: scene.pump.strays > strays)
    assert flow.carrier.sent == []
    assert scene.bridge.paths == {}
    assert flow.virtual is None


def test_connection_of_nobody_is_closed(scene):
    """A flow that was released between its handshake and our accept."""
    flow = scene.flow(4, 40_000)
    scene.give(flow, "S", seq=1)
    (answer,) = scene.segments(flow)
    scene.bridge._awaited.clear()
    scene.give(flow, "A", seq=2, ack=answer[TCP].seq + 1)
    closing = scene.segments(flow)
    assert closing[-1][TCP].flags.F or closing[-1][TCP].flags.R
    assert scene.accepted == []


def test_bad_checksum_is_the_kernels_drop_and_is_counted(scene):
    flow = scene.flow(4, 40_000)
    scene.give(flow, "S", seq=1, chksum=0x1234)
    scene.loop.until(lambda: scene.namespace.counters()["Tcp.InCsumErrors"] >= 1)
    assert flow.carrier.sent == []


def test_virtual_clients_are_never_given_twice_at_once(scene):
    names = set()
    for number in range(3000):
        flow = make_flow(scene.tenant, source_port=number % 60_000)
        scene.bridge.admit(flow)
        names.add(flow.virtual[:2])
    assert len(names) == len(scene.bridge.paths) == 3000


def test_namespace_has_nothing_of_the_host_and_its_thread_alone_lives_there(scene):
    outside = os.readlink("/proc/self/ns/net")
    inside = scene.namespace.run(os.readlink, "/proc/thread-self/ns/net")
    assert inside != outside
    assert os.readlink("/proc/thread-self/ns/net") == outside
    assert sorted(name for _, name in scene.namespace.run(socket.if_nameindex)) == ["lo", "plain"]


def test_namespaces_leave_no_thread_and_no_descriptor():
    threads, descriptors = threading.active_count(), open_descriptors()
    for _ in range(3):
        namespace = PrivateNamespace()
        assert set(namespace.counters()) >= {"Ip.InHdrErrors", "Tcp.InErrs", "Ip6InHdrErrors"}
        namespace.close()
    assert threading.active_count() == threads
    assert open_descriptors() == descriptors


def test_icmp_of_the_kernel_in_there_is_a_stray(scene):
    """A segment to a port without listener, or the kernel's own chatter, belongs to no flow."""
    assert icmp.PORT_UNREACHABLE.v4 == (3, 3)
    flow = scene.flow(4, 40_000)
    scene.bridge.paths.clear()
    strays = scene.pump.strays
    scene.give(flow, "S", seq=1)
    scene.loop.until(lambda: scene.pump.strays > strays)
    assert flow.carrier.sent == []

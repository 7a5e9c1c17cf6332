"""Clients and strangers who mean no good: floods, others' tuples, forged answers, addresses that are nobody's."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import threading

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.layers.inet6 import ICMPv6EchoRequest, IPv6ExtHdrFragment
from scapy.packet import Raw

from tests.loops import open_descriptors
from tests.netns import needs_root
from tests.offramps.kernel_scene import (
    CLIENT,
    EDGE,
    FAMILIES,
    GATEWAY,
    ORIGIN,
    SECOND,
    Net,
    Proxy,
    ask,
    connect_tunnel,
    echo,
    entries,
)
from tests.packets import network
from tests.running import until

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_root]
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
LIMIT = 300
FLOOD = 50_000
BURSTS = 20
CONFIGURATION = f"""
node: edge
offramp: kernel
tenants:
  evil: {{limits: {{flows: {LIMIT}}}}}
  good: {{udp_filtering: address-and-port}}
onramps:
"""
RAMPS = {
    "interface": """
  - {kind: interface, interfaces: [in1], tenant: evil, sources: [10.1.0.0/16, "fd01::/32"]}
  - {kind: interface, interfaces: [in2], tenant: good}
""",
    "connected": "  - {kind: connected, path: ramp.sock}\n",
}


class Two(Net):
    """Two tenants with the same addresses."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind
        if kind == "interface":
            self.evil, self.good = self.client_at("in1"), self.client_at("in2")
        self.proxy = Proxy(self.directory, self.edge, CONFIGURATION + RAMPS[kind])
        with self.undone_on_failure():
            self.proxy.start()
            if kind == "connected":
                self.evil, self.good = self._tunnel("evil"), self._tunnel("good")

    def _tunnel(self, tenant):
        client = connect_tunnel(self.proxy.file("ramp.sock"), offload=False, tenant=tenant)
        self._stack.callback(client.close)
        return client

    def raw(self, version):
        return self.keep(self.evil.run(socket.socket, FAMILIES[version], socket.SOCK_RAW, socket.IPPROTO_RAW))

    def pair(self, client, version, port=0):
        listener = self.listen(version)
        sock = self.sock(client, version, socket.SOCK_STREAM)
        sock.bind((CLIENT[version], port))
        sock.connect(listener.getsockname()[:2])
        return sock, self.accept(listener)


@pytest.fixture(scope="module", params=list(RAMPS))
def made(request):
    before = open_descriptors()
    two = Two(request.param)
    yield two
    two.close()
    assert open_descriptors() == before


def exchange(client, origin, word=b"canary"):
    client.sendall(word)
    assert origin.recv(100) == word
    origin.sendall(word)
    assert client.recv(100) == word


def template(kind, version, net):
    """A packet, and how the next of its kind differs: others' sources where they are let in, ports where not."""
    head = network(version, CLIENT[version], ORIGIN[version])
    layer = {
        "syn": TCP(sport=1, dport=9, flags="S"), "udp": UDP(sport=1, dport=9),
        "icmp": ICMP(id=1) if version == 4 else ICMPv6EchoRequest(id=1),
    }.get(kind, UDP(sport=1, dport=9, len=5000) / Raw(bytes(1000)))  # fmt: skip
    if kind == "fragments" and version == 4:
        head.flags = "MF"
    if kind == "fragments" and version == 6:
        head = head / IPv6ExtHdrFragment(m=1, nh=17)
    packet = bytearray(bytes(head / layer))
    l4 = 20 if version == 4 else 40

    def vary(number):
        if kind == "fragments":
            at = 4 if version == 4 else 46
            packet[at : at + 2] = (number % 65_536).to_bytes(2, "big")
        else:
            at = l4 + (4 if kind == "icmp" else 0)
            checksum = l4 + {"icmp": 2, "syn": 16, "udp": 6}[kind]
            old = int.from_bytes(packet[at : at + 2], "big")
            new = number % 65_000 + 1
            packet[at : at + 2] = new.to_bytes(2, "big")
            total = (int.from_bytes(packet[checksum : checksum + 2], "big") ^ 0xFFFF) - old + new  # RFC 1624
            total %= 0xFFFF
            packet[checksum : checksum + 2] = ((total or 0xFFFF) ^ 0xFFFF or 0xFFFF).to_bytes(2, "big")
        if version == 4:
            packet[10:12] = b"\0\0"  # the kernel fills it in
        return bytes(packet)

    return vary


@VERSIONS
@pytest.mark.parametrize("kind", ["syn", "udp", "icmp", "fragments"])
def test_a_flood_stays_within_its_limits_and_its_neighbour_goes_on(net, kind, version):
    client, origin = net.pair(net.good, version)
    exchange(client, origin)
    raw, vary = net.raw(version), template(kind, version, net)
    before = sum(net.proxy.control.status().tenants["evil"].drops.values())
    for number in range(FLOOD):
        with contextlib.suppress(OSError):
            raw.sendto(vary(number), (ORIGIN[version], 0))
        if number % (FLOOD // BURSTS) == 0:
            exchange(client, origin)
            assert sum(net.proxy.control.status().tenants["evil"].flows.values()) <= LIMIT
    exchange(client, origin)
    fresh = net.pair(net.good, version)
    exchange(*fresh)
    status = net.proxy.control.status()
    assert sum(status.tenants["evil"].flows.values()) <= LIMIT
    if kind in ("udp", "icmp"):  # a SYN to a closed port is over when it is refused, and fragments make no flow
        until(lambda: sum(net.proxy.control.status().tenants["evil"].drops.values()) > before)
    assert status.tenants["good"].drops.get("limit_flows", 0) == 0
    _kill_all(net)


def _kill_all(net):
    """So that the next flood finds room. Packets of this one that still wait in a queue may open flows meanwhile."""

    def none_is_left():
        left = [flow for flow in net.proxy.live(tenant="evil") if flow.state != "closed"]
        for flow in left:
            with contextlib.suppress(Exception):
                net.proxy.control.kill(flow.flow_id, [("all_tenants", "true")])
        return not left

    until(none_is_left)


@VERSIONS
def test_another_tenants_tuple_opens_nothing(net, version):
    """Segments with all the numbers right, from the other on-ramp: the connection does not hear of them."""
    client, origin = net.pair(net.good, version, 23_232)
    sniffer = net.sniffer(net.good, "warp") if net.kind == "connected" else net.sniffer(
        net.good, "lan0"
    )  # fmt: skip
    exchange(client, origin)
    last = until(lambda: [p for p in sniffer.arrived(6) if p[TCP].dport == 23_232])[-1][TCP]
    raw, port = net.raw(version), origin.getsockname()[1]
    for flags, payload in (("PA", b"forged"), ("R", b""), ("FA", b""), ("RA", b""), ("A", b"")):
        seq = last.ack if last.ack else 0
        segment = TCP(sport=23_232, dport=port, flags=flags, seq=seq, ack=last.seq + len(last.payload))
        raw.sendto(bytes(network(version, CLIENT[version], ORIGIN[version]) / segment / Raw(payload)),
                   (ORIGIN[version], 0))  # fmt: skip
    ask(net.sock(net.evil, version, socket.SOCK_DGRAM), echo(net, version))  # behind them on the same way
    exchange(client, origin)
    exchange(client, origin)
    _kill_all(net)


@VERSIONS
def test_forged_answers_reach_nobody(net, version):
    """From a wrong port, from a wrong address, and ICMP errors about flows that are none, between two canaries."""
    client, origin = net.pair(net.good, version)
    exchange(client, origin)
    asked = net.listen(version, kind=socket.SOCK_DGRAM)
    datagrams = net.sock(net.good, version, socket.SOCK_DGRAM)
    datagrams.sendto(b"hello", asked.getsockname())
    _, outside = asked.recvfrom(100)
    asked.sendto(b"first", outside)
    assert datagrams.recv(100) == b"first"
    device = "lan0" if net.kind == "interface" else "warp"
    sniffer = net.sniffer(net.good, device)
    raw = net.keep(net.origin.run(socket.socket, FAMILIES[version], socket.SOCK_RAW, socket.IPPROTO_RAW))
    peer = origin.getpeername()[:2]
    forged = [
        network(version, ORIGIN[version], EDGE[version]) / TCP(sport=4, dport=peer[1], flags="R", seq=1),
        network(version, SECOND[version], EDGE[version])
        / TCP(sport=origin.getsockname()[1], dport=peer[1], flags="RA"),
        network(version, ORIGIN[version], EDGE[version]) / UDP(sport=5, dport=outside[1]) / Raw(b"forged"),
        network(version, SECOND[version], EDGE[version]) / UDP(sport=5, dport=outside[1]) / Raw(b"forged"),
    ]
    quoted = network(version, EDGE[version], ORIGIN[version]) / UDP(sport=outside[1], dport=6) / Raw(b"unknown")
    error = Raw(bytes((3, 3) if version == 4 else (1, 4)) + bytes(6) + bytes(quoted))
    head = network(version, ORIGIN[version], EDGE[version])
    forged.append(IP(bytes(head / ICMP(bytes(error)))) if version == 4 else head / error)
    for packet in forged:
        raw.sendto(bytes(packet), (EDGE[version], 0))
    asked.sendto(b"last", outside)
    assert datagrams.recv(100) == b"last"
    exchange(client, origin)
    seen = [data for is_in, data in sniffer.read() if is_in]
    assert [data for data in seen if b"last" in data]
    assert not [data for data in seen if b"forged" in data or b"unknown" in data]


@VERSIONS
def test_addresses_that_are_nobodys_are_not_sent_to(net, version):
    """Of this host, of everybody, of nobody: nothing of it leaves, and nothing comes in through the back door."""
    secret = net.sock(net.edge, version, socket.SOCK_DGRAM)
    secret.bind(("127.0.0.1" if version == 4 else "::1", 0))
    mapped = net.listen(version, kind=socket.SOCK_DGRAM)
    neighbour = net.sock(net.good, version, socket.SOCK_DGRAM)
    neighbour.sendto(b"hello", mapped.getsockname())
    _, outside = mapped.recvfrom(100)
    at_origin = net.sniffer(net.origin, "o1")
    targets = {
        4: ["255.255.255.255", "224.0.0.1", "239.1.2.3", "0.0.0.0", "127.0.0.1", "10.2.0.255", EDGE[4], GATEWAY[4]],
        6: ["ff02::1", "ff0e::1", "::", "::1", "fe80::1", EDGE[6], GATEWAY[6]],
    }[version]
    mac = _address(net) if net.kind == "interface" else b""
    for target in targets:
        for port in (secret.getsockname()[1], outside[1]):
            packet = bytes(network(version, CLIENT[version], target) / UDP(sport=777, dport=port) / Raw(b"hostile"))
            _inject(net, packet, mac, version)
    ask(net.sock(net.evil, version, socket.SOCK_DGRAM), echo(net, version))
    mapped.sendto(b"canary", outside)
    assert neighbour.recv(100) == b"canary"
    assert not [packet for packet in at_origin.arrived(17) if b"hostile" in bytes(packet)]
    secret.setblocking(False)
    with pytest.raises(BlockingIOError):
        secret.recv(100)


def _address(net):
    """The hardware address of the edge, as the client reaches it."""
    out = net.program(net.edge, "ip", "-brief", "link", "show", "in1")
    return bytes.fromhex(out.split()[2].replace(":", ""))


def _inject(net, packet, mac, version):
    """Put a packet on the client's way, past its own kernel's routes."""
    if net.kind == "connected":
        net.evil.sock.send(packet)
        return
    kind = {4: 0x0800, 6: 0x86DD}[version]
    with net.evil.run(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, 0) as sock:
        sock.sendto(packet, ("lan0", kind, 0, 0, mac))


@VERSIONS
def test_spoofed_sources_are_counted_and_go_nowhere(net, version):
    at_origin = net.sniffer(net.origin, "o1")
    before = net.proxy.drops("spoofed_source", "evil")
    mac = _address(net) if net.kind == "interface" else b""
    spoofed = {4: "10.99.0.1", 6: "fd99::1"}[version]
    for layer in (TCP(sport=5, dport=80, flags="S"), UDP(sport=5, dport=80)):
        _inject(net, bytes(network(version, spoofed, ORIGIN[version]) / layer / Raw(b"spoofed")), mac, version)
    ask(net.sock(net.evil, version, socket.SOCK_DGRAM), echo(net, version))
    assert not [packet for packet in at_origin.arrived(6, 17) if b"spoofed" in bytes(packet)]
    until(lambda: net.proxy.drops("spoofed_source", "evil") >= before + 2)


def test_sets_of_decided_flows_hold_no_more_than_there_are_flows(net):
    if net.kind != "interface":
        pytest.skip("tunnels have none")
    client, server = net.sock(net.evil, 4, socket.SOCK_DGRAM), echo(net, 4)
    ask(client, server)

    def count():
        out = net.edge.run(subprocess.run, ["nft", "list", "set", "inet", "oxy_proxy", "decided4_1"],
                           capture_output=True, text=True).stdout  # fmt: skip
        return out.count("expires")

    assert 1 <= count() <= sum(net.proxy.control.status().tenants["evil"].flows_started.values())
    assert len(entries(net.edge)) >= 1


def test_many_clients_at_once_are_all_served(net):
    """Not an attack: it must not look like one."""
    listener = net.listen(4)
    socks = []
    accepted = []
    accepting = threading.Thread(target=lambda: accepted.extend(listener.accept()[0] for _ in range(100)))
    accepting.start()
    for _ in range(100):
        sock = net.sock(net.good, 4, socket.SOCK_STREAM)
        sock.connect(listener.getsockname())
        socks.append(sock)
    accepting.join(30)
    for sock in accepted:
        sock.sendall(b"hi")
        sock.close()
    assert [sock.recv(10) for sock in socks] == [b"hi"] * 100

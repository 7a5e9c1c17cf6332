"""Interface on-ramps and each other: sites of one network reach each other as they are, those of two never.

here  10.1.0.2 --- in1 ---.              .--- in3 --- 10.5.0.2  there     ours
here  10.1.0.2 --- in2 ---+--- edge -----+--- in4 --- 10.5.0.2  there     others', with the same addresses
                          |              '--- in5 --- 10.6.0.2  strange   others'
                          |--- out --- 10.2.0.2 origin
                          '--- oxyts0: 10.99.0.0/24, a TUN on-ramp of the others'
"""

from __future__ import annotations

import signal
import socket
import struct
import threading

import pytest
from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach
from scapy.packet import Raw

from tests.loops import open_descriptors
from tests.netns import needs_root
from tests.offramps.kernel_scene import (
    CLIENT,
    FAMILIES,
    ORIGIN,
    Net,
    Proxy,
    are_links_settled,
    ask,
    echo,
    entries,
    needs,
    read_all,
    reset,
    state_of,
    transfer,
)
from tests.packets import network
from tests.running import until

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_root]
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
THERE, STRANGE = {4: "10.5.0.2", 6: "fd05::2"}, {4: "10.6.0.2", 6: "fd06::2"}
BEHIND_TUN = {4: "10.99.0.7", 6: "fd99::7"}
CONFIGURATIONS = {
    "tenants": """
node: edge
offramp: kernel
tenants: {ours: {}, others: {egress: out, snat: [10.2.0.1]}}
onramps:
  - {kind: interface, interfaces: [in1], tenant: ours, sources: [10.1.0.0/16, "fd01::/32"]}
  - {kind: interface, interfaces: [in3], tenant: ours, sources: [10.5.0.0/16, "fd05::/32"]}
  - {kind: interface, interfaces: [in2, in4, in5], tenant: others}
  - {kind: tun, device: oxyts0, tenant: others, addresses: [10.99.0.1/24, "fd99::1/64"]}
""",
    "networks": """
node: edge
offramp: kernel
tenants: {acme: {networks: {others: {}}}}
onramps:
  - {kind: interface, interfaces: [in1, in3], tenant: acme}
  - {kind: interface, interfaces: [in2], tenant: acme, network: others}
  - {kind: interface, interfaces: [in4], tenant: acme, network: others}
  - {kind: interface, interfaces: [in5], tenant: acme, network: others}
  - {kind: tun, device: oxyts0, tenant: acme, network: others, addresses: [10.99.0.1/24, "fd99::1/64"]}
""",
}


class Sites(Net):
    """Two networks that differ in nothing, but that one has a site more."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        far = {"gateway": ["10.5.0.1/24", "fd05::1/64"], "own": ["10.5.0.2/24", "fd05::2/64"]}
        self.here, self.others_here = self.client_at("in1"), self.client_at("in2")
        self.there, self.others_there = self.client_at("in3", **far), self.client_at("in4", **far)
        self.strange = self.client_at(
            "in5", gateway=["10.6.0.1/24", "fd06::1/64"], own=["10.6.0.2/24", "fd06::2/64"]
        )  # fmt: skip
        self.knows_sources = kind == "tenants"
        self.proxy = Proxy(self.directory, self.edge, CONFIGURATIONS[kind])
        until(lambda: are_links_settled(self.edge))
        self.before = state_of(self.edge)
        with self.undone_on_failure():
            self.proxy.start()

    def server(self, namespace, version, kind, port=0):
        sock = self.sock(namespace, version, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::" if version == 6 else "0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            sock.listen(64)
        return sock

    def pair(self, near, far, version, address, port=0):
        listener = self.server(far, version, socket.SOCK_STREAM, port)
        client = self.sock(near, version, socket.SOCK_STREAM)
        client.connect((address, listener.getsockname()[1]))
        return client, self.accept(listener)


@pytest.fixture(scope="module", params=list(CONFIGURATIONS))
def made(request):
    before = open_descriptors()
    sites = Sites(request.param)
    yield sites
    assert sites.proxy.stop() == 0
    until(lambda: state_of(sites.edge) == sites.before)
    sites.close()
    assert open_descriptors() == before


def record(net, **wanted):
    """The one of an ended flow."""
    return until(lambda: net.proxy.ended(**wanted))[0]


@VERSIONS
def test_a_connection_between_sites_keeps_its_addresses_and_its_record_is_exact(net, version):
    client, server = net.pair(net.here, net.there, version, THERE[version])
    port = server.getsockname()[1]
    assert server.getpeername()[:2] == client.getsockname()[:2] == (CLIENT[version], client.getsockname()[1])
    transfer(client, server, 300_001)
    transfer(server, client, 200_003)
    (live,) = until(lambda: net.proxy.live(dst_port=port, state="established"))
    assert (live.level, live.offramp, live.egress_ip) == ("packet", "kernel", CLIENT[version])
    client.close()
    assert read_all(server) == (0, "end")
    server.close()
    ended = record(net, dst_port=port)
    assert (ended.close_reason, ended.history) == ("client_closed", "ShAFf")
    assert (ended.total.client_payload_bytes, ended.total.origin_payload_bytes) == (300_001, 200_003)
    assert ended.origin_tcp_ms is not None


@VERSIONS
def test_only_what_decides_comes_up_from_either_side(net, version):
    client, server = net.pair(net.here, net.there, version, THERE[version])
    before = sum(ramp.packets_in for ramp in net.proxy.control.tunnels())
    transfer(client, server, 3_000_000)
    transfer(server, client, 3_000_000)
    after = sum(ramp.packets_in for ramp in net.proxy.control.tunnels())
    assert after - before < 20


@VERSIONS
@pytest.mark.parametrize("is_stuck", [False, True], ids=["decided", "nobody decides"])
def test_a_site_that_answers_first_after_long_is_still_the_known_flow(net, version, is_stuck):
    """What is carried is noted for some time: then a packet of either side comes up, and belongs to its flow. If nobody
    takes it, conntrack knows the flow."""
    client, server = net.pair(net.here, net.there, version, THERE[version])
    port = server.getsockname()[1]
    until(lambda: net.proxy.live(dst_port=port))
    if is_stuck:
        net.proxy.process.send_signal(signal.SIGSTOP)
    try:
        for name in [f"inside{version}_{place}" for place in (1, 2, 3, 4)]:
            net.program(net.edge, "nft", f"flush set inet oxy_proxy {name}", code=None)  # as if it were later
        transfer(server, client, 200_000)
        transfer(client, server, 100_000)
    finally:
        net.proxy.process.send_signal(signal.SIGCONT)
    assert [flow.src for flow in net.proxy.live(dst_port=port)] == [CLIENT[version]]
    assert not net.proxy.live(src_port=port)
    reset(server)
    assert read_all(client) == (0, "ConnectionResetError")
    ended = record(net, dst_port=port)
    assert (ended.close_reason, ended.total.origin_payload_bytes) == ("origin_reset", 200_000)


@VERSIONS
def test_the_same_addresses_and_ports_of_two_networks_at_once(net, version):
    """Connections and datagrams of both arrive at their own site, from the same address and port."""
    places = [(net.here, net.there, b"ours"), (net.others_here, net.others_there, b"others'")]
    for kind in (socket.SOCK_STREAM, socket.SOCK_DGRAM):
        servers = [net.server(far, version, kind, 7070) for _, far, _ in places]
        clients = [net.sock(near, version, kind) for near, _, _ in places]
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            client.bind((CLIENT[version], 20_202))
            client.connect((THERE[version], 7070))
        accepted = []
        for (_, _, word), client, server in zip(places, clients, servers, strict=True):
            client.send(word)
            if kind == socket.SOCK_STREAM:
                accepted.append(net.accept(server))
                assert accepted[-1].recv(100) == word
                accepted[-1].send(word)
            else:
                data, peer = server.recvfrom(100)
                assert (data, peer[:2]) == (word, (CLIENT[version], 20_202))
                server.sendto(word, peer)
            assert client.recv(100) == word
        protocol = "tcp" if kind == socket.SOCK_STREAM else "udp"
        live = net.proxy.live(protocol=protocol, src_port=20_202, dst=THERE[version])
        assert len({(flow.tenant, flow.vnet) for flow in live}) == 2
        for sock in (*accepted, *clients, *servers):
            sock.close()


@VERSIONS
def test_datagrams_between_sites_both_ways(net, version):
    server = net.server(net.there, version, socket.SOCK_DGRAM)
    client = net.sock(net.here, version, socket.SOCK_DGRAM)
    client.bind((CLIENT[version], 0))
    port = server.getsockname()[1]
    client.sendto(b"x" * 1000, (THERE[version], port))
    data, peer = server.recvfrom(2000)
    assert (len(data), peer[:2]) == (1000, client.getsockname()[:2])
    server.sendto(b"y" * 900, peer)
    data, peer = client.recvfrom(2000)
    assert (data, peer[:2]) == (b"y" * 900, (THERE[version], port))
    headers = 28 if version == 4 else 48
    (flow,) = until(lambda: net.proxy.live(protocol="udp", dst_port=port))
    assert (flow.total.client_bytes, flow.total.origin_bytes) == (1000 + headers, 900 + headers)
    # another port of that host's is a flow of its own, as behind a router
    other = net.server(net.there, version, socket.SOCK_DGRAM)
    other.sendto(b"unasked", client.getsockname()[:2])
    assert client.recv(100) == b"unasked"
    (flow,) = until(lambda: net.proxy.live(protocol="udp", src_port=other.getsockname()[1]))
    assert (flow.src, flow.dst, flow.parent_id) == (THERE[version], CLIENT[version], None)


@needs("ping")
@VERSIONS
@pytest.mark.parametrize("size", [56, 4000])
def test_ping_between_sites_also_when_larger_than_a_link(net, version, size):
    for near, address in ((net.here, THERE[version]), (net.there, CLIENT[version])):
        out = net.program(near, "ping", f"-{version}", "-n", "-c", 3, "-i", "0.05", "-W", 9, "-s", size, address)
        assert " 0% packet loss" in out
    found = until(lambda: net.proxy.live(protocol="icmp" if version == 4 else "icmpv6", dst=THERE[version]))
    assert found[0].history == "Dd"


@VERSIONS
def test_a_port_that_is_closed_and_a_host_that_is_away(net, version):
    """An RST and an ICMP error of the other site's reach the client, and tell how the flow ended."""
    sock = net.sock(net.here, version, socket.SOCK_STREAM)
    with pytest.raises(ConnectionRefusedError):
        sock.connect((THERE[version], 9))
    assert record(net, protocol="tcp", dst_port=9, dst=THERE[version]).close_reason == "origin_refused"
    kind = ICMP if version == 4 else ICMPv6DestUnreach
    sniffer = net.sniffer(net.here, "lan0")
    client = net.sock(net.here, version, socket.SOCK_DGRAM)
    client.connect((THERE[version], 9))
    client.send(b"nobody there")
    told = sniffer.until(lambda packet: packet.haslayer(kind))
    assert told.src == THERE[version]
    with pytest.raises(ConnectionRefusedError):
        until(lambda: client.send(b"again") and False)


@VERSIONS
def test_a_kill_ends_both_sides(net, version):
    client, server = net.pair(net.here, net.there, version, THERE[version])
    transfer(client, server, 1000)
    (flow,) = until(lambda: net.proxy.live(dst_port=server.getsockname()[1], state="established"))
    net.proxy.control.kill(flow.flow_id, [("all_tenants", "true")])
    assert read_all(client) == (0, "ConnectionResetError")
    assert read_all(server) == (0, "ConnectionResetError")
    assert record(net, dst_port=server.getsockname()[1]).close_reason == "admin_killed"
    until(lambda: not [entry for entry in entries(net.edge) if entry.original[-2:] == struct.pack("!H", flow.dst_port)])


@VERSIONS
def test_nothing_reaches_another_networks_site(net, version):
    """Refused and counted, in between two packets that pass; what leaves for the internet is translated as ever."""
    word, address = b"canary", echo(net, version)
    client = net.sock(net.here, version, socket.SOCK_DGRAM)
    client.bind((CLIENT[version], 0))
    sniffer = net.sniffer(net.strange, "lan0")
    assert ask(client, address, word) == word
    before = net.proxy.drops("bad_address")
    for _ in range(3):
        client.sendto(b"into a strange network", (STRANGE[version], 7))
    listener = net.server(net.strange, version, socket.SOCK_STREAM, 7171)
    sock = net.sock(net.here, version, socket.SOCK_STREAM)
    sock.setblocking(False)
    assert sock.connect_ex((STRANGE[version], 7171)) != 0
    until(lambda: net.proxy.drops("bad_address") >= before + 4)
    assert ask(client, address, word) == word
    listener.setblocking(False)
    with pytest.raises(BlockingIOError):
        listener.accept()
    # from within that network it can be reached
    allowed = net.sock(net.others_here, version, socket.SOCK_STREAM)
    allowed.connect((STRANGE[version], 7171))
    found = until(lambda: [packet for packet in sniffer.arrived(6, 17) if packet.src == CLIENT[version]])
    assert all(packet.dport == 7171 for packet in found)
    accepted, _ = until(lambda: _accept(listener))
    accepted.close()


@VERSIONS
def test_nothing_reaches_a_tun_on_ramp_from_another_on_ramp(net, version):
    """Its packets would be another network's client's. Counted, in between two packets that pass."""
    client, address = net.sock(net.here, version, socket.SOCK_DGRAM), echo(net, version)
    assert ask(client, address) == b"canary"
    before = net.proxy.drops("bad_address")
    for port in (7, 9):
        client.sendto(b"into a device", (BEHIND_TUN[version], port))
    until(lambda: net.proxy.drops("bad_address") >= before + 2)
    assert ask(client, address) == b"canary"
    assert not [flow for flow in net.proxy.live() if flow.onramp == "tun"]


@VERSIONS
def test_an_answer_by_an_on_ramp_that_does_not_lead_there_is_none(net, version):
    """Somebody at a site pretends to be a host outside that another site has asked: that is spoofing where it is known
    who is there, else a flow of its own, to be decided as any other."""
    client, address = net.sock(net.there, version, socket.SOCK_DGRAM), echo(net, version)
    client.bind((THERE[version], 0))
    assert ask(client, address) == b"canary"
    before = net.proxy.drops("spoofed_source", "ours") if net.knows_sources else 0
    raw = net.keep(net.here.run(socket.socket, FAMILIES[version], socket.SOCK_RAW, socket.IPPROTO_RAW))
    head = network(version, ORIGIN[version], THERE[version])
    forged = head / UDP(sport=address[1], dport=client.getsockname()[1]) / Raw(b"forged")
    raw.sendto(bytes(forged), (THERE[version], 0))

    def found():
        return net.proxy.live(protocol="udp", src=ORIGIN[version], dst=THERE[version], src_port=address[1])

    if net.knows_sources:
        until(lambda: net.proxy.drops("spoofed_source", "ours") > before)
        assert not found()
    else:
        (flow,) = until(found)
        assert flow.tunnel == "in1+in3"


def _accept(listener):
    try:
        return listener.accept()
    except BlockingIOError:
        return None


@VERSIONS
def test_many_connections_both_ways_at_once(net, version):
    """Each has a record with the bytes that it moved."""
    listeners = [net.server(space, version, socket.SOCK_STREAM) for space in (net.there, net.here)]
    sent = {}

    def one(near, address, listener, size):
        with near.run(socket.socket, FAMILIES[version], socket.SOCK_STREAM) as sock:
            sock.settimeout(20)
            sock.connect((address, listener.getsockname()[1]))
            sent[address, sock.getsockname()[1]] = size  # two hosts may choose one port
            sock.sendall(bytes(size))
            sock.shutdown(socket.SHUT_WR)
            assert sock.recv(10) == b""

    def serve(listener, count):
        for _ in range(count):
            sock, _ = listener.accept()
            with sock:
                read_all(sock)

    threads = [threading.Thread(target=serve, args=(listener, 20)) for listener in listeners]
    for number in range(20):
        threads.append(threading.Thread(target=one, args=(net.here, THERE[version], listeners[0], number * 1000)))
        threads.append(threading.Thread(target=one, args=(net.there, CLIENT[version], listeners[1], number * 999)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(sent) == 40
    ports = [listener.getsockname()[1] for listener in listeners]

    def totals():
        found = [record for port in ports for record in net.proxy.ended(dst_port=port)]
        return {(record.dst, record.src_port): record.total.client_payload_bytes for record in found}

    until(lambda: totals() == sent)


@VERSIONS
def test_the_internet_as_ever(net, version):
    client, server = net.pair(net.here, net.origin, version, ORIGIN[version])
    transfer(client, server, 1000)
    assert server.getpeername()[0] != CLIENT[version]

"""The whole proxy: packets of clients in one namespace, origins in another, and the kernel between them.

client --(SEQPACKET)--> edge: the proxy, 10.50.0.1 ----- origin: 10.50.0.10, fd00:50::10
"""

from __future__ import annotations

import random
import socket

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.packet import Raw

from proxy.flow.fragments import Fragments
from proxy.packet.fragment import split
from tests.applications import DENIED_PORT
from tests.netns import needs_root
from tests.packet.script import describe
from tests.packets import decode, parsed, ping_packet, recomputed
from tests.running import ORIGIN, REFUSED_BY_ROUTER, SILENT, UNROUTED, staged, until

pytestmark = [pytest.mark.netns, needs_root]
FAMILIES = pytest.mark.parametrize("version", [4, 6])
MODES = pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])


@pytest.fixture(scope="module")
def running():
    with staged() as stage:
        yield stage


@pytest.fixture
def stage(running):
    yield running
    running.after_test()


def ping(client, version, ident=1):
    raw = bytes(client.network(version) / decode(ping_packet(version, ident=ident)).payload)
    return recomputed(raw)


@FAMILIES
@MODES
def test_connection_from_syn_to_fin_is_a_connection_to_the_origin(stage, version, offload):
    listener, client = stage.listen(version), stage.client(offload=offload)
    port = listener.getsockname()[1]
    seen = client.connect(version, 40_000, port)
    server = stage.accept(listener)
    client.send(client.segment(version, 40_000, port, "PA", seq=1001, ack=seen, payload=b"question"))
    assert server.recv(100) == b"question"
    assert client.packet()[TCP].ack == 1009
    server.send(b"answer")
    answer = client.packet()
    assert (answer.src, bytes(answer[TCP].payload), answer[TCP].seq) == (ORIGIN[version], b"answer", seen)
    client.send(client.segment(version, 40_000, port, "FA", seq=1009, ack=seen + 6))
    assert server.recv(100) == b""
    server.close()
    last = client.packet()
    while not last[TCP].flags.F:
        last = client.packet()
    client.send(client.segment(version, 40_000, port, "A", seq=1010, ack=last[TCP].seq + 1))
    (record,) = until(lambda: stage.ended(src=client.addresses[version], protocol="tcp"))
    assert (record.close_reason, record.conn_state, record.history) == ("client_closed", "SF", "ShAFf")
    assert (record.total.client_payload_bytes, record.total.origin_payload_bytes) == (8, 6)
    assert record.total.client_packets == 5
    assert (record.dst, record.dst_port, record.src_port) == (ORIGIN[version], port, 40_000)


@pytest.mark.slow
@FAMILIES
def test_syn_is_not_answered_until_the_origin_has(stage, version):
    listener, client = stage.listen(version, backlog=0), stage.client()
    family = socket.AF_INET if version == 4 else socket.AF_INET6
    filling = stage.origin.run(socket.socket, family)
    filling.connect(listener.getsockname())  # the queue is full: further SYNs are not answered
    port = listener.getsockname()[1]
    client.send(
        ping(client, version, 1), client.segment(version, 40_000, port, "S", seq=1000), ping(client, version, 2)
    )
    replies = [describe(client.receive()) for _ in range(2)]
    assert all("TCP" not in reply for reply in replies), replies
    listener.accept()[0].close()
    filling.close()
    assert client.packet()[TCP].flags == "SA"


@FAMILIES
@MODES
def test_refused_connection_is_reset_at_once(stage, version, offload):
    client = stage.client(offload=offload)
    with stage.listen(version) as listener:
        port = listener.getsockname()[1]
    client.send(client.segment(version, 40_000, port, "S", seq=1000))
    assert describe(client.receive()) == f"{ORIGIN[version]} > {client.addresses[version]} TCP RA seq 0 ack 1001"
    (record,) = until(lambda: stage.ended(src=client.addresses[version]))
    assert (record.close_reason, record.conn_state) == ("origin_refused", "REJ")


@FAMILIES
def test_no_route_is_told_by_the_proxy(stage, version):
    client = stage.client()
    client.send(client.segment(version, 40_000, 80, "S", dst=UNROUTED[version]))
    hop, kind = {4: ("192.0.0.8", "ICMP 3/0"), 6: ("fd6f:7879::1", "ICMPv6 1/0")}[version]
    expected = f"{hop} > {client.addresses[version]} {kind} about {UNROUTED[version]}"
    assert describe(client.receive()) == expected
    (record,) = until(lambda: stage.ended(src=client.addresses[version]))
    assert record.close_reason == "origin_unreachable"


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_router_that_refuses_is_heard_by_the_client(stage, version, protocol):
    client, dst = stage.client(), REFUSED_BY_ROUTER[version]
    if protocol == "tcp":
        client.send(client.segment(version, 40_000, 80, "S", dst=dst))
    else:
        client.send(bytes(client.network(version, dst) / UDP(sport=40_000, dport=9) / Raw(b"x")))
    kind = {4: "ICMP 3/0", 6: "ICMPv6 1/0"}[version]
    assert describe(client.receive()) == f"{ORIGIN[version]} > {client.addresses[version]} {kind} about {dst}"


@pytest.mark.slow
def test_silence_stays_silence_and_ends(stage):
    client = stage.client()
    client.send(ping(client, 4, 1), client.segment(4, 40_000, 80, "S", dst=SILENT))
    (record,) = until(lambda: stage.ended(src=client.addresses[4], close_reason="origin_timeout"))
    assert record.conn_state == "S0"
    client.send(ping(client, 4, 2))
    assert all("TCP" not in describe(client.receive()) for _ in range(2))


@FAMILIES
@MODES
def test_datagrams_reach_the_origin_and_its_answers_the_client(stage, version, offload):
    server, client = stage.listen(version, kind=socket.SOCK_DGRAM), stage.client(offload=offload)
    port = server.getsockname()[1]
    for number in range(5):  # the first opens the flow, the others are memoised
        payload = f"question {number}".encode()
        client.send(bytes(client.network(version) / UDP(sport=5000, dport=port) / Raw(payload)))
        data, address = server.recvfrom(100)
        assert data == payload
        server.sendto(data.upper(), address)
        answer = client.packet()
        assert (answer.src, answer[UDP].sport, answer[UDP].dport) == (ORIGIN[version], port, 5000)
        assert bytes(answer[UDP].payload) == payload.upper()


@FAMILIES
@MODES
def test_largest_datagram_arrives_whole_in_both_directions(stage, version, offload):
    server, client = stage.listen(version, kind=socket.SOCK_DGRAM), stage.client(offload=offload)
    payload = random.Random(version).randbytes(65_507)
    whole = bytes(client.network(version) / UDP(sport=5000, dport=server.getsockname()[1]) / Raw(payload))
    client.send(*split(whole, 1280, 7))
    data, address = server.recvfrom(70_000)
    assert data == payload
    server.sendto(data[::-1], address)
    fragments, joined = Fragments(timeout_s=10, max_bytes=1 << 20), None
    while joined is None:
        piece = client.receive()
        assert len(piece) <= 1280
        joined = fragments.add(piece, parsed(piece), 0)
    assert bytes(decode(joined)[UDP].payload) == payload[::-1]
    assert recomputed(joined) == joined


@FAMILIES
@MODES
def test_ping_is_answered_by_the_origin(stage, version, offload):
    client = stage.client(offload=offload)
    for ident in (7, 8):
        client.send(ping(client, version, ident))
        answer = client.receive()
        assert (decode(answer).src, answer[-4:]) == (ORIGIN[version], b"ping")
        assert recomputed(answer) == answer


@FAMILIES
def test_closed_udp_port_is_told_by_the_origin(stage, version):
    client = stage.client()
    client.send(bytes(client.network(version) / UDP(sport=5000, dport=9) / Raw(b"x")))
    kind = {4: "ICMP 3/3", 6: "ICMPv6 1/4"}[version]
    expected = f"{ORIGIN[version]} > {client.addresses[version]} {kind} about {ORIGIN[version]}"
    assert describe(client.receive()) == expected


@FAMILIES
@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_denied_flow_is_told_and_never_reaches_the_origin(stage, version, protocol):
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    server, client = stage.listen(version, DENIED_PORT, kind=kind), stage.client()
    layer = TCP(sport=5000, dport=DENIED_PORT, flags="S") if protocol == "tcp" else UDP(sport=5000, dport=DENIED_PORT)
    client.send(bytes(client.network(version) / layer / Raw(b"")))
    hop, error = {4: ("192.0.0.8", "ICMP 3/13"), 6: ("fd6f:7879::1", "ICMPv6 1/1")}[version]
    assert describe(client.receive()) == f"{hop} > {client.addresses[version]} {error} about {ORIGIN[version]}"
    (record,) = until(lambda: stage.ended(src=client.addresses[version]))
    assert (record.verdict, record.close_reason) == ("denied", "denied")
    assert record.decisions[0].reason == "this port is denied"
    server.setblocking(False)
    with pytest.raises(BlockingIOError):
        server.accept() if protocol == "tcp" else server.recv(10)


def test_two_tenants_with_the_same_addresses_do_not_meet(stage):
    listener = stage.listen()
    port = listener.getsockname()[1]
    addresses = ["100.96.9.9", "fd00:96::9:9"]
    for offload in (False, True):
        clients = [stage.client(tenant, addresses=addresses, offload=offload) for tenant in ("acme", "globex")]
        servers = []
        for client in clients:
            ack = client.connect(4, 40_000 + offload, port)
            servers.append((client, stage.accept(listener), ack))
        for number, (client, server, ack) in enumerate(servers):
            client.send(client.segment(4, 40_000 + offload, port, "PA", seq=1001, ack=ack, payload=b"from %d" % number))
            assert server.recv(100) == b"from %d" % number
            server.send(b"to %d" % number)
        for number, (client, _, _) in enumerate(servers):
            payload = b""
            while not payload:
                payload = bytes(client.packet()[TCP].payload)
            assert payload == b"to %d" % number
        for client in clients:
            client.close()
        until(lambda: stage.status.tunnels == 0)

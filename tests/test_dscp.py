"""Service marks through the whole proxy: what a client's packets ask for, origins see, and the other way round."""

from __future__ import annotations

import itertools
import socket

import pytest

from tests.netns import needs_root
from tests.running import CONFIGURATION, PATIENCE_S, staged, until
from tests.test_downgrade import CONFIGURATION as ROUTED

pytestmark = [pytest.mark.netns, needs_root]

EF, AF41 = 46, 34
TCP_SAVE_SYN, TCP_SAVED_SYN = 27, 28
SETTINGS = {"keep": "keep", "clear": "clear", "set": AF41}
ECN = range(4)


@pytest.fixture(scope="module")
def running():
    tenants = "".join(
        f"  {name}: {{prefixes: [100.96.0.0/12, 'fd00:96::/32'], dscp: {dscp}}}\n" for name, dscp in SETTINGS.items()
    )
    with staged(configuration=CONFIGURATION.replace("tenants:\n", f"tenants:\n{tenants}")) as stage:
        yield stage


@pytest.fixture
def stage(running):
    yield running
    running.after_test()


@pytest.fixture(params=list(SETTINGS))
def tenant(request):
    return request.param


def expected(tenant, dscp):
    return {"keep": dscp, "clear": 0, "set": AF41}[tenant]


def mark(sock, tos):
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, tos)
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, tos)


def watch(sock):
    if sock.family == socket.AF_INET:
        sock.setsockopt(socket.IPPROTO_IP, 13, 1)  # IP_RECVTOS
    else:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_RECVTCLASS, 1)


def receive(sock):
    """A datagram, its TOS byte or traffic class, and who sent it."""
    data, ancillary, _, address = sock.recvmsg(2000, 200)
    (tos,) = (data[0] for _, kind, data in ancillary if kind in (socket.IP_TOS, socket.IPV6_TCLASS))
    return data, tos, address


def from_laptop(stage, laptop, version, kind):
    sock = laptop.run(socket.socket, socket.AF_INET if version == 4 else socket.AF_INET6, kind)
    stage._closing.callback(sock.close)
    sock.settimeout(PATIENCE_S)
    return sock


def test_each_datagram_bears_its_own_mark_both_ways(stage, version, offload, tenant):
    """All 64 marks and all four ECN marks on one socket: those of one datagram never stick to the next."""
    server, laptop = stage.listen(version, kind=socket.SOCK_DGRAM), stage.laptop(offload=offload, tenant=tenant)
    client = from_laptop(stage, laptop, version, socket.SOCK_DGRAM)
    client.connect(server.getsockname()[:2])
    watch(server)
    watch(client)
    for dscp, ecn in itertools.product((0, EF, 1, 63, 0, AF41), ECN):
        mark(client, dscp << 2 | ecn)
        client.send(b"question")
        data, tos, address = receive(server)
        assert (data, tos >> 2, tos & 3) == (b"question", expected(tenant, dscp), ecn)
        mark(server, (63 - dscp) << 2 | (3 - ecn))
        server.sendto(b"answer", address)
        data, tos, _ = receive(client)
        assert (data, tos >> 2, tos & 3) == (b"answer", expected(tenant, 63 - dscp), 3 - ecn)
    client.close()
    port = server.getsockname()[1]
    (record,) = stage.control.flows([("all_tenants", "true"), ("dst_port", str(port))]).items
    assert record.dscp == 0  # of the first


def test_connection_bears_the_mark_of_its_syn(stage, version, offload, tenant):
    """ECN is the affair of each kernel's own TCP: its bits of the client's packets go no further."""
    listener, laptop = stage.listen(version), stage.laptop(offload=offload, tenant=tenant)
    listener.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
    for dscp in (0, EF, 63):
        sock = from_laptop(stage, laptop, version, socket.SOCK_STREAM)
        mark(sock, dscp << 2 | 2)
        sock.connect(listener.getsockname()[:2])
        server = stage.accept(listener)
        head = server.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, 200)
        tos = head[1] if version == 4 else (head[0] & 15) << 4 | head[1] >> 4
        assert tos == expected(tenant, dscp) << 2
        port = sock.getsockname()[1]
        sock.close()
        server.close()
        (record,) = until(lambda port=port: stage.ended(src_port=port, tenant=tenant))
        assert record.dscp == dscp


def test_echo_bears_the_mark_of_each_request_and_of_each_answer(stage, version, tenant):
    """A kernel answers with the mark of the request."""
    from scapy.layers.inet import ICMP
    from scapy.layers.inet6 import ICMPv6EchoRequest
    from scapy.packet import Raw

    client = stage.client(tenant)
    for number, (dscp, ecn) in enumerate(itertools.product((EF, 0, 63), ECN)):
        packet = client.network(version)
        if version == 4:
            packet.tos = dscp << 2 | ecn
        else:
            packet.tc = dscp << 2 | ecn
        echo = ICMP(id=7, seq=number) if version == 4 else ICMPv6EchoRequest(id=7, seq=number)
        client.send(bytes(packet / echo / Raw(b"x")))
        answer = client.packet()
        tos = answer.tos if version == 4 else answer.tc
        assert tos >> 2 == expected(tenant, dscp)


def test_stream_that_goes_down_to_packets_keeps_the_marks_of_both_hosts(version, offload):
    with staged(configuration=ROUTED) as stage:
        near, far = stage.laptop(offload=offload), stage.laptop(offload=offload)
        listener = from_laptop(stage, far, version, socket.SOCK_STREAM)
        listener.setsockopt(socket.IPPROTO_TCP, TCP_SAVE_SYN, 1)
        mark(listener, AF41 << 2)
        listener.bind((far.addresses[version], 0))
        listener.listen(1)
        packets = stage.client()
        client = from_laptop(stage, near, version, socket.SOCK_STREAM)
        mark(client, EF << 2)
        client.connect(listener.getsockname()[:2])
        server = stage.accept(listener)
        head = server.getsockopt(socket.IPPROTO_TCP, TCP_SAVED_SYN, 200)
        assert (head[1] if version == 4 else (head[0] & 15) << 4 | head[1] >> 4) == EF << 2
        # by hand, to see what comes back
        port = listener.getsockname()[1]
        there = far.addresses[version]
        packets.send(packets.segment(version, 5000, port, "S", dst=there, seq=1000))
        answer = packets.packet()
        ack = answer["TCP"].seq + 1
        packets.send(packets.segment(version, 5000, port, "A", dst=there, seq=1001, ack=ack))
        second = stage.accept(listener)
        second.send(b"hello")
        while not bytes(answer["TCP"].payload):
            answer = packets.packet()
        assert (answer.tos if version == 4 else answer.tc) >> 2 == AF41

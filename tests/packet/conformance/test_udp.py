"""UDP in every shape: sizes, checksums, many destinations for one port, fragments, bursts and super-datagrams."""

from __future__ import annotations

import random
import socket
import struct

import pytest
from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach
from scapy.packet import Raw

from proxy.offramps.sockets import UDP_SEGMENT
from proxy.packet.fragment import split
from proxy.wire.checksum import pseudo_header_sum
from tests.netns import needs_root
from tests.packet.conformance.wires import FAR_ROUTER, PROXY, SCRIPTED, datagram, is_udp_to, joined, received
from tests.packets import decode, network, parsed
from tests.running import ORIGIN, until

pytestmark = [pytest.mark.netns, needs_root]

BURST, QUIC = 2000, 1200  # datagrams, bytes of payload


@pytest.mark.parametrize("size", [0, 1, 2, 7, 1231, 1232, 1233, 1252, 1253, 4000, 65_507])
def test_datagrams_of_every_size_arrive_whole_both_ways(stage, client, version, size):
    sport, dport = stage.port, stage.port
    payload = random.Random(size).randbytes(size)
    for _ in range(2):  # the first opens the flow, the second is memoised
        client.send(*split(datagram(client, version, sport, dport, payload), 1280, stage.port))
        question = joined(stage.network, is_udp_to(dport))
        src, proxys_port, _, _, got = received(question)
        assert (src, got) == (PROXY[version], payload)
        answer = UDP(sport=dport, dport=proxys_port) / Raw(payload[::-1])
        stage.network.send(bytes(network(version, SCRIPTED[version], src) / answer))
        assert received(joined(client, is_udp_to(sport))) == (
            SCRIPTED[version], dport, client.addresses[version], sport, payload[::-1]
        )  # fmt: skip


def test_zero_checksum_is_taken_over_ipv4_and_refused_over_ipv6(stage, client, version):
    sport, dport = stage.port, stage.port
    refused = stage.dropped("bad_l4_checksum")
    for _ in range(2):
        client.send(datagram(client, version, sport, dport, b"no sum", chksum=0))
    client.send(datagram(client, version, sport, dport, b"sum"))
    payloads = [received(packet)[4] for packet in stage.quiet(client, version)[1]]
    assert payloads == ([b"no sum"] * 2 if version == 4 else []) + [b"sum"]
    assert stage.dropped("bad_l4_checksum") == refused + (0 if version == 4 else 2)


def test_broken_datagrams_are_counted_and_never_leave(stage, client, version):
    """On the flow's first packet and on the memoised path alike."""
    sport, dport = stage.port, stage.port
    before = stage.dropped("bad_l4_checksum")
    client.send(datagram(client, version, sport, dport, b"bad", chksum=0x1234))
    client.send(datagram(client, version, sport, dport, b"good"))
    client.send(datagram(client, version, sport, dport, b"bad", chksum=0x1234))
    client.send(datagram(client, version, sport, dport, b"good"))
    assert [received(packet)[4] for packet in stage.quiet(client, version)[1]] == [b"good", b"good"]
    assert stage.dropped("bad_l4_checksum") == before + 2
    if version == 4:
        good = datagram(client, version, sport, dport, b"good")
        client.send(good[:10] + bytes([good[10] ^ 1]) + good[11:])
        assert stage.quiet(client, version) == ([], [])
        assert stage.dropped("bad_ip_checksum") > 0


def test_one_port_of_the_client_speaks_with_many_destinations(stage, client, version):
    sport, dport = stage.port, stage.port
    prefix = SCRIPTED[version][:-1]
    destinations = [f"{prefix}{number}" for number in range(100, 150)]
    for address in destinations:
        client.send(datagram(client, version, sport, dport, address.encode(), dst=address))
    replies = {}
    for _ in destinations:
        src, port, dst, _, payload = received(stage.network.next(is_udp_to(dport)))
        assert payload == dst.encode()
        replies[dst] = src, port
    for address, (src, port) in reversed(replies.items()):
        answer = UDP(sport=dport, dport=port) / Raw(address.encode())
        stage.network.send(bytes(network(version, address, src) / answer))
    answers = [received(client.next(is_udp_to(sport))) for _ in destinations]
    assert sorted(answer[0] for answer in answers) == sorted(destinations)
    assert all(answer[0].encode() == answer[4] for answer in answers)


def test_who_was_not_written_to_is_not_heard_but_for_other_ports_of_who_was(stage, client, version):
    """Address-dependent filtering, the default (RFC 4787 REQ-8)."""
    sport, dport = stage.port, stage.port
    client.send(datagram(client, version, sport, dport, b"?"))
    src, port, _, _, _ = received(stage.network.next(is_udp_to(dport)))
    before = stage.dropped("unsolicited")
    stranger = SCRIPTED[version][:-1] + "77"
    for address, from_port, said in (
        (stranger, dport, b"spoof"),
        (SCRIPTED[version], dport + 1, b"another port"),
        (SCRIPTED[version], dport, b"real"),
    ):
        stage.network.send(bytes(network(version, address, src) / UDP(sport=from_port, dport=port) / Raw(said)))
    answers = [received(client.next(is_udp_to(sport))) for _ in range(2)]  # in any order: one waits for its verdict
    here = client.addresses[version]
    assert sorted(answers) == [
        (SCRIPTED[version], dport, here, sport, b"real"),
        (SCRIPTED[version], dport + 1, here, sport, b"another port"),
    ]
    assert stage.dropped("unsolicited") == before + 1


def test_port_unreachable_is_told_for_every_datagram_and_the_flow_goes_on(stage, client, version):
    sport, dport = stage.port, stage.port
    for _ in range(3):
        client.send(datagram(client, version, sport, dport, b"?"))
        packet = stage.network.next(is_udp_to(dport))
        error = ICMP(type=3, code=3) if version == 4 else ICMPv6DestUnreach(code=4)
        stage.network.send(bytes(network(version, SCRIPTED[version], PROXY[version]) / error / Raw(packet[:64])))
        said = {4: "ICMP 3/3", 6: "ICMPv6 1/4"}[version]
        assert client.told() == f"{SCRIPTED[version]} > {client.addresses[version]} {said} about {SCRIPTED[version]}"


def test_error_of_a_router_quotes_the_clients_ports(stage, client, version):
    sport, dport = stage.port, stage.port
    client.send(datagram(client, version, sport, dport, b"?"))
    packet = stage.network.next(is_udp_to(dport))
    error = ICMP(type=3, code=13) if version == 4 else ICMPv6DestUnreach(code=1)
    stage.network.send(bytes(network(version, FAR_ROUTER[version], PROXY[version]) / error / Raw(packet[:64])))
    told = decode(client.next(lambda packet: True))
    quoted = decode(bytes((told[ICMP] if version == 4 else told[ICMPv6DestUnreach]).payload))
    assert (quoted.src, quoted.dst) == (client.addresses[version], SCRIPTED[version])
    ports = quoted.payload
    assert (ports.sport, ports.dport) == (sport, dport)
    assert told.src == FAR_ROUTER[version]


@pytest.mark.slow
def test_burst_to_the_origin_arrives_without_loss(stage, client, version):
    server = stage.listen(version, kind=socket.SOCK_DGRAM)
    server.setsockopt(socket.SOL_SOCKET, 33, 32 << 20)  # SO_RCVBUFFORCE
    head = client.network(version) / UDP(sport=stage.port, dport=server.getsockname()[1])
    packets = [bytes(head / Raw(number.to_bytes(4, "big") * (QUIC // 4))) for number in range(BURST)]
    client.send(packets[0])
    assert server.recv(2000) == bytes(QUIC)
    before = stage.status.tenants["acme"].drops
    client.send(*packets)
    got = [server.recv(2000) for _ in range(BURST)]
    assert got == [number.to_bytes(4, "big") * (QUIC // 4) for number in range(BURST)]
    assert stage.status.tenants["acme"].drops == before


def test_first_flight_waits_for_the_verdict_and_arrives_in_order(stage, client, version):
    """As much as a QUIC client sends at once; the hook of this stage takes its time."""
    sport, dport = stage.port, stage.port
    client.send(*(datagram(client, version, sport, dport, bytes([number]) * QUIC) for number in range(50)))
    got = [received(stage.network.next(is_udp_to(dport)))[4] for _ in range(50)]
    assert got == [bytes([number]) * QUIC for number in range(50)]


@pytest.mark.slow
def test_burst_to_the_client_arrives_without_loss(stage, client, version):
    """Faster than it reads: the socket's buffer and the tunnel's queue hold it."""
    server = stage.listen(version, kind=socket.SOCK_DGRAM)
    sport = stage.port
    client.send(bytes(client.network(version) / UDP(sport=sport, dport=server.getsockname()[1]) / Raw(b"give")))
    _, address = server.recvfrom(10)
    before = stage.status.tenants["acme"].drops
    for number in range(BURST):
        server.sendto(number.to_bytes(4, "big") * (QUIC // 4), address)
    got = b""
    while len(got) < BURST * QUIC:
        got += bytes(decode(client.next(is_udp_to(sport)))[UDP].payload)
    assert got == b"".join(number.to_bytes(4, "big") * (QUIC // 4) for number in range(BURST))
    assert stage.status.tenants["acme"].drops == before


def test_super_datagram_of_the_client_leaves_as_its_datagrams(stage, version):
    """Segmentation offload: one packet with many datagrams, which the origin gets one by one."""
    client, server = stage.scripted(offload=True), stage.listen(version, kind=socket.SOCK_DGRAM)
    sport, dport = stage.port, server.getsockname()[1]
    payload = random.Random(1).randbytes(20 * 1000 + 300)
    packet = bytearray(bytes(client.network(version) / UDP(sport=sport, dport=dport) / Raw(payload)))
    found = parsed(packet)
    pseudo = pseudo_header_sum(found.source + found.destination, 17, found.end - found.l4)
    packet[found.l4 + 6 : found.l4 + 8] = pseudo.to_bytes(2, "big")
    for _ in range(2):
        client.sock.send(struct.pack("<BBHHHH", 1, 5, found.l4 + 8, 1000, found.l4, 6) + packet)
        got = [server.recv(2000) for _ in range(21)]
        assert [len(part) for part in got] == [1000] * 20 + [300]
        assert b"".join(got) == payload


def test_super_datagram_of_the_origin_reaches_the_client_as_its_datagrams(stage, client, version):
    """With offload as few packets as the kernel makes of it, without as many as there are datagrams."""
    server, sport = stage.listen(version, kind=socket.SOCK_DGRAM), stage.port
    client.send(bytes(client.network(version) / UDP(sport=sport, dport=server.getsockname()[1]) / Raw(b"give")))
    _, address = server.recvfrom(10)
    payload = random.Random(2).randbytes(30 * 1000 + 5)
    server.sendmsg([payload], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 1000))], 0, address)
    got, sizes = b"", []
    while len(got) < len(payload):
        part = bytes(decode(client.next(is_udp_to(sport)))[UDP].payload)
        got += part
        size = client.gso_size or len(part)
        sizes += [len(part[at : at + size]) for at in range(0, len(part), size)]
    assert got == payload
    assert sizes == [1000] * 30 + [5]


def test_super_datagram_too_large_for_the_tunnel_is_cut_datagram_by_datagram(stage, version):
    client, server, sport = stage.scripted(offload=True), stage.listen(version, kind=socket.SOCK_DGRAM), stage.port
    client.send(bytes(client.network(version) / UDP(sport=sport, dport=server.getsockname()[1]) / Raw(b"give")))
    _, address = server.recvfrom(10)
    payload = random.Random(3).randbytes(5 * 1400)
    server.sendmsg([payload], [(socket.IPPROTO_UDP, UDP_SEGMENT, struct.pack("=H", 1400))], 0, address)
    got = b"".join(bytes(decode(joined(client, is_udp_to(sport)))[UDP].payload) for _ in range(5))
    assert got == payload


def test_session_is_recorded_with_what_passed(stage, client, version):
    server, sport = stage.listen(version, kind=socket.SOCK_DGRAM), stage.port
    dport = server.getsockname()[1]
    client.send(bytes(client.network(version) / UDP(sport=sport, dport=dport) / Raw(b"12345")))
    _, address = server.recvfrom(10)
    server.sendto(b"123", address)
    client.next(is_udp_to(sport))
    client.close()
    (record,) = until(lambda: stage.ended(src=client.addresses[version], src_port=sport))
    assert (record.total.client_payload_bytes, record.total.origin_payload_bytes) == (5, 3)
    assert (record.dst, record.dst_port, record.close_reason) == (ORIGIN[version], dport, "tunnel_closed")

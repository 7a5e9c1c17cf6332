"""Sites in a real proxy: packets between sites, clients and origins, and what a router between tunnels does to them."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP, IPerror
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest, ICMPv6PacketTooBig, IPv6
from scapy.packet import Raw

from proxy.flow.fragments import Fragments
from proxy.packet.fragment import split
from proxy.wire.checksum import pseudo_header_sum
from tests.netns import needs_root
from tests.onramps.wan import wide
from tests.packets import decode, network, pack, parsed, recomputed
from tests.running import ORIGIN, until

pytestmark = [pytest.mark.netns, needs_root]
FAMILIES = pytest.mark.parametrize("version", [4, 6])
MODES = pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])


@pytest.fixture(scope="module")
def running():
    with wide() as stage:
        yield stage


@pytest.fixture
def wan(running):
    yield running
    running.after_test()


def hop(packet):
    """The same packet one hop later."""
    decoded = decode(packet)
    if isinstance(decoded, IP):
        decoded.ttl -= 1
    else:
        decoded.hlim -= 1
    return recomputed(bytes(decoded))


def datagram(src, dst, payload=b"hello", *, sport=4000, dport=4001, **fields):
    version = 6 if ":" in src else 4
    return bytes(network(version, src, dst, **fields) / UDP(sport=sport, dport=dport) / Raw(payload))


@FAMILIES
@MODES
def test_client_and_site_exchange_datagrams(wan, version, offload):
    client, berlin = wan.client(offload=offload), wan.site("berlin")
    here, there = client.addresses[version], berlin.address(version)
    for number in range(3):  # the first opens the flow, the others follow its path
        out = datagram(here, there, b"out %d" % number)
        client.send(out)
        assert berlin.receive() == hop(out)
        back = datagram(there, here, b"back %d" % number, sport=4001, dport=4000)
        berlin.send(back)
        assert client.receive() == hop(back)
    (tunnel,) = [t for t in wan.control.tunnels("acme") if t.id == "site:berlin"]
    assert (tunnel.onramp, tunnel.flows >= 0) == ("gue", True)


@FAMILIES
@pytest.mark.parametrize(("one", "other"), [("berlin", "paris"), ("paris", "berlin")])
def test_sites_exchange_datagrams_over_different_outer_families(wan, version, one, other):
    near, far = wan.site(one), wan.site(other)
    for number in range(3):
        out = datagram(near.address(version), far.address(version), b"%d" % number)
        near.send(out)
        assert far.receive() == hop(out)
        back = datagram(far.address(version), near.address(version), sport=4001, dport=4000)
        far.send(back)
        assert near.receive() == hop(back)
    assert all(49_152 <= port < 65_536 for port in near.ports | far.ports)


@FAMILIES
def test_clients_exchange_datagrams(wan, version):
    near, far = wan.client(), wan.client(offload=True)
    for _ in range(2):
        out = datagram(near.addresses[version], far.addresses[version])
        near.send(out)
        assert far.receive() == hop(out)
        back = datagram(far.addresses[version], near.addresses[version], sport=4001, dport=4000)
        far.send(back)
        assert near.receive() == hop(back)


@FAMILIES
def test_ping_is_forwarded_and_answered(wan, version):
    client, berlin = wan.client(), wan.site("berlin")
    echo = ICMP(id=77, seq=1) if version == 4 else ICMPv6EchoRequest(id=77, seq=1)
    request = bytes(client.network(version, berlin.address(version)) / echo / Raw(b"data"))
    client.send(request)
    assert berlin.receive() == hop(request)
    answer = ICMP(type=0, id=77, seq=1) if version == 4 else ICMPv6EchoReply(id=77, seq=1)
    reply = bytes(network(version, berlin.address(version), client.addresses[version]) / answer / Raw(b"data"))
    berlin.send(reply)
    assert client.receive() == hop(reply)


@FAMILIES
@MODES
def test_connection_has_its_record_at_level_packet(wan, version, offload):
    client, berlin = wan.client(offload=offload), wan.site("berlin")
    here, there = client.addresses[version], berlin.address(version)

    def segment(flags, payload=b"", *, back=False, **fields):
        src, dst, ports = (there, here, (80, 4100)) if back else (here, there, (4100, 80))
        return bytes(
            network(version, src, dst) / TCP(sport=ports[0], dport=ports[1], flags=flags, **fields) / Raw(payload)
        )

    client.send(segment("S", options=[("MSS", 9000)]))
    syn = berlin.packet()
    assert dict(syn[TCP].options)["MSS"] == 1280 - (40 if version == 4 else 60)
    berlin.send(segment("SA", back=True, options=[("MSS", 1460)]))
    assert dict(client.packet()[TCP].options)["MSS"] == 1280 - (40 if version == 4 else 60)
    for step in [segment("A"), segment("PA", b"question"), segment("FA")]:
        client.send(step)
        assert berlin.receive() == hop(step)
    for step in [segment("PA", b"answer", back=True), segment("FA", back=True)]:
        berlin.send(step)
        assert client.receive() == hop(step)
    client.send(segment("A", ack=1))
    assert berlin.packet()[TCP].flags == "A"
    (record,) = until(lambda: wan.ended(src=here, src_port=4100))
    assert (record.onramp, record.offramp, record.offramp_tunnel) == ("connected", "tunnel", "site:berlin")
    assert (record.level, record.close_reason, record.history) == ("packet", "client_closed", "ShAFf")
    assert (record.vnet, record.route.endswith("via site:berlin")) == ("default", True)
    assert (record.total.client_packets, record.total.origin_packets) == (5, 3)


@FAMILIES
def test_site_reaches_an_origin_by_sockets(wan, version):
    berlin = wan.site("berlin")
    listener = wan.listen(version)
    port = listener.getsockname()[1]

    def segment(flags, payload=b"", **fields):
        head = network(version, berlin.address(version), ORIGIN[version])
        return bytes(head / TCP(sport=4200, dport=port, flags=flags, **fields) / Raw(payload))

    berlin.send(segment("S", seq=1000, options=[("MSS", 1460)]))
    answer = until(lambda: next((p[TCP] for p in [berlin.packet()] if p.version == version), None))
    assert (answer.flags, answer.ack) == ("SA", 1001)
    berlin.send(segment("A", seq=1001, ack=answer.seq + 1), segment("PA", b"hello", seq=1001, ack=answer.seq + 1))
    origin = wan.accept(listener)
    assert origin.recv(100) == b"hello"
    origin.sendall(b"world")
    until(lambda: bytes(berlin.packet()[TCP].payload) == b"world")
    origin.close()
    berlin.send(segment("R", seq=1006))


def test_too_big_is_told_with_the_mtu_of_the_tunnel(wan):
    client, berlin = wan.client(mtu=9000), wan.site("berlin")
    big = bytes(1500)
    client.send(datagram(client.addresses[4], berlin.address(4), big, flags="DF"))
    error = client.packet()
    assert (error[ICMP].type, error[ICMP].code, error[ICMP].nexthopmtu) == (3, 4, 1400)
    assert error[IPerror].dst == berlin.address(4)
    client.send(datagram(client.addresses[6], berlin.address(6), big))
    assert client.packet()[ICMPv6PacketTooBig].mtu == 1400
    exact = datagram(client.addresses[4], berlin.address(4), bytes(1372), flags="DF")
    client.send(exact)
    assert berlin.receive() == hop(exact)


@FAMILIES
def test_large_datagram_crosses_in_fragments_of_either_tunnel(wan, version):
    client, berlin = wan.client(), wan.site("berlin")
    here, there = client.addresses[version], berlin.address(version)
    whole = datagram(here, there, bytes(range(250)) * 16)
    client.send(*split(whole, 1280, 1))
    pieces = [berlin.receive() for _ in range(3)]
    assert max(map(len, pieces)) <= 1400

    def join(received):
        fragments = Fragments(timeout_s=9, max_bytes=1 << 20)
        return [fragments.add(piece, parsed(piece), 0) for piece in received][-1]

    assert join(pieces) == hop(whole)
    back = datagram(there, here, bytes(4000), sport=4001, dport=4000)
    berlin.send(*split(back, 1400, 1))
    assert join([client.receive() for _ in range(4)]) == hop(back)


@FAMILIES
def test_last_hop_is_answered_by_the_proxy_in_the_tunnel(wan, version):
    client, berlin = wan.client(), wan.site("berlin")
    client.send(datagram(client.addresses[version], berlin.address(version), ttl=1))
    assert client.packet().src == {4: "192.0.0.8", 6: "fd6f:7879::1"}[version]
    berlin.send(datagram(berlin.address(version), client.addresses[version], ttl=1))
    # to the site from the address that the proxy has in its tunnel
    assert berlin.packet().src == {4: "10.255.1.1", 6: "fd6f:7879::1"}[version]


def test_error_of_a_router_in_the_site_reaches_the_client(wan):
    client, berlin = wan.client(), wan.site("berlin")
    sent = datagram(client.addresses[4], berlin.address(4), sport=4300)
    client.send(sent)
    arrived = berlin.receive()
    router = "10.255.1.9"  # in no prefix of the site: routers have addresses of their own
    error = bytes(IP(src=router, dst=client.addresses[4]) / ICMP(type=11, code=0) / Raw(arrived[:28]))
    berlin.send(error)
    told = client.receive()
    assert (told[20:], decode(told).src, decode(told).ttl) == (error[20:], router, 63)
    about_nothing = bytes(
        IP(src=router, dst=client.addresses[4]) / ICMP(type=11) / Raw(datagram(client.addresses[4], "10.1.0.9"))
    )
    wan.counted("spoofed_source", lambda: berlin.send(about_nothing), "acme")
    wan.canary(client, berlin)


def test_no_route_and_no_next_hop_are_told(wan):
    client = wan.client()
    client.send(datagram(client.addresses[4], "192.0.2.77"))
    error = client.packet()
    assert (error[ICMP].type, error[ICMP].code) == (3, 0)
    client.send(datagram(client.addresses[4], "100.97.1.1"))
    error = client.packet()
    assert (error[ICMP].type, error[ICMP].code) == (3, 1)
    drops = wan.drops("acme")
    assert drops["no_route"] >= 1
    assert drops["no_next_hop"] >= 1


@FAMILIES
def test_marks_cross_and_congestion_arrives(wan, version):
    client, berlin = wan.client(), wan.site("berlin")
    fields = {"tos": 0xB9} if version == 4 else {"tc": 0xB9}
    for _ in range(2):
        out = datagram(client.addresses[version], berlin.address(version), **fields)
        client.send(out)
        assert berlin.receive() == hop(out)
        assert berlin.outer_tos == 0xB9
    back = datagram(berlin.address(version), client.addresses[version], sport=4001, dport=4000, **fields)
    berlin.send(back, tos=3)
    arrived = client.packet()
    assert (arrived.tos if version == 4 else arrived.tc) == 0xBB
    plain = datagram(berlin.address(version), client.addresses[version], sport=4001, dport=4000)
    wan.counted("ecn_not_capable", lambda: berlin.send(plain, tos=3), "acme")
    berlin.send(plain)
    assert client.receive() == hop(plain)


@pytest.mark.parametrize("version", [4, 6])
def test_super_packet_of_a_client_is_cut_for_a_site(wan, version):
    client, berlin = wan.client(offload=True), wan.site("berlin")
    here, there = client.addresses[version], berlin.address(version)
    headers = 20 if version == 4 else 40
    size, payload = 1000, bytes(range(256)) * 10
    raw = bytearray(bytes(network(version, here, there) / TCP(sport=4400, dport=80, flags="PA", seq=7) / Raw(payload)))
    field = pseudo_header_sum(pack(here) + pack(there), 6, len(raw) - headers)
    raw[headers + 16 : headers + 18] = field.to_bytes(2, "big")
    kind = 1 if version == 4 else 4
    client.sock.send(struct.pack("<BBHHHH", 1, kind, headers + 20, size, headers, 16) + raw)
    got = [berlin.receive() for _ in range(3)]
    assert all(recomputed(piece) == piece for piece in got)
    segments = [decode(piece)[TCP] for piece in got]
    assert b"".join(bytes(segment.payload) for segment in segments) == payload
    assert [segment.seq for segment in segments] == [7, 1007, 2007]
    assert [str(segment.flags) for segment in segments] == ["A", "A", "PA"]
    single = bytearray(bytes(network(version, here, there) / UDP(sport=4401, dport=53) / Raw(b"partial")))
    field = pseudo_header_sum(pack(here) + pack(there), 17, len(single) - headers)
    single[headers + 6 : headers + 8] = field.to_bytes(2, "big")
    client.sock.send(struct.pack("<BBHHHH", 1, 0, 0, 0, headers, 6) + single)
    whole = berlin.receive()
    assert recomputed(whole) == whole
    assert decode(whole)[UDP].payload == Raw(b"partial")
    assert isinstance(decode(whole), IP if version == 4 else IPv6)

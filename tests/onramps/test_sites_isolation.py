"""Tenants, networks and peers in a real proxy: what is forged or malformed goes nowhere, and is counted by its reason.

Nothing arrived: between two canaries that did.
"""

from __future__ import annotations

import socket

import pytest
from scapy.layers.inet import ICMP, IP, TCP, UDP
from scapy.packet import Raw

from proxy.wire import gue
from tests.netns import needs_root
from tests.onramps.wan import PEERS, wide
from tests.packets import network
from tests.running import until

pytestmark = [pytest.mark.netns, needs_root]


@pytest.fixture(scope="module")
def running():
    with wide() as stage:
        yield stage


@pytest.fixture
def wan(running):
    yield running
    running.after_test()


def datagram(src, dst, payload=b"forged", sport=4000, dport=4001):
    version = 6 if ":" in src else 4
    return bytes(network(version, src, dst) / UDP(sport=sport, dport=dport) / Raw(payload))


def header(context, proto=4):
    return gue.header(4 if proto == 4 else 6, context)


@pytest.mark.parametrize(
    ("name", "head", "reason"),
    [
        ("another tenant", header(gue.Context(8, 1)), "foreign_tenant"),
        ("another site of the tenant", header(gue.Context(7, 2)), "foreign_tenant"),
        ("a tenant that is none", header(gue.Context(99, 1)), "foreign_tenant"),
        ("only the tenant", header(gue.Context(7)), "foreign_tenant"),
        ("a wrong token", header(gue.Context(7, 1, b"t0K")), "bad_token"),
        ("no token", header(gue.Context(7, 1)), "bad_token"),
        ("no context", header(None), "context_missing"),
        ("version 1", b"", "context_missing"),
        ("an unknown flag", b"\x00\x04\x80\x00", "gue_flags"),
        ("a known flag", b"\x01\x04\x00\x01" + bytes(4), "gue_flags"),
        ("Hlen past the end", b"\x1f\x04\x00\x00", "gue_truncated"),
        ("a control message", b"\x20\x04\x00\x00", "gue_control"),
        ("protocol 59", b"\x00\x3b\x00\x00", "gue_no_next_header"),
        ("protocol 47", b"\x00\x2f\x00\x00", "gue_protocol"),
        ("version 2", b"\x80\x04\x00\x00", "gue_version"),
        ("version 3", b"\xc0\x04\x00\x00", "gue_version"),
        ("version 1, nibble 5", b"\x50\x04\x00\x00", "gue_v1_inner"),
        ("IPv6 announced", gue.header(6, gue.Context(7, 1, b"t0k")), "gue_inner"),
        ("a context cut short", b"\x02\x04\x00\x00OX\x01\x01\x04\x00\x00\x00", "context_truncated"),
        ("a field twice", b"\x04\x04\x00\x00OX\x01" + b"\x01\x04\0\0\0\x07" * 2 + b"\0", "context_repeated"),
        ("a context of version 2", b"\x01\x04\x00\x00OX\x02\x00", "context_version"),
        ("a number of two bytes", b"\x02\x04\x00\x00OX\x01\x01\x02\x00\x07\x00", "context_bad_field"),
    ],
)  # fmt: skip
def test_bad_header_is_counted_and_its_packet_goes_nowhere(wan, name, head, reason):
    client, berlin, rome = wan.client(), wan.site("berlin"), wan.site("rome")
    other = wan.client("globex", addresses=[client.addresses[4]])
    wan.canary(client, berlin)
    packet = datagram(berlin.address(4), client.addresses[4])
    berlin.send(packet)
    assert client.packet()[UDP].dport == 4001  # with a good header it arrives
    wan.counted(reason, lambda: berlin.send(packet, header=head))
    wan.canary(client, berlin)
    wan.canary(other, rome)
    berlin.send(datagram(berlin.address(4), client.addresses[4], b"last"))
    assert bytes(client.packet()[UDP].payload) == b"last"


def test_zero_length_datagram_is_counted(wan):
    berlin = wan.site("berlin")
    wan.counted("gue_truncated", lambda: berlin.out.sendto(b"", berlin.proxy))


def test_foreign_outer_peer_is_nobody(wan):
    """A stranger knows every byte of a site's packets, but has another address."""
    client, berlin = wan.client(), wan.site("berlin")
    stranger = wan.edge.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM)
    stranger.bind(("127.0.0.66", 0))
    packet = datagram(berlin.address(4), client.addresses[4])
    data = gue.header(4, PEERS["berlin"][2]) + packet
    wan.counted("unknown_peer", lambda: stranger.sendto(data, berlin.proxy))
    stranger.close()
    berlin.send(datagram(berlin.address(4), client.addresses[4], b"true"))
    assert bytes(client.packet()[UDP].payload) == b"true"


def test_peer_of_one_site_cannot_speak_for_another(wan):
    """Rome's context and addresses are right; the peer is berlin's."""
    berlin, rome = wan.site("berlin"), wan.site("rome")
    client = wan.client("globex", addresses=["100.96.9.9"])
    forged = datagram(rome.address(4), client.addresses[4])
    wan.counted("foreign_tenant", lambda: berlin.send(forged, header=gue.header(4, PEERS["rome"][2])))
    rome.send(datagram(rome.address(4), client.addresses[4], b"true"))
    assert bytes(client.packet()[UDP].payload) == b"true"


@pytest.mark.parametrize("source", ["10.2.0.5", "100.96.0.77", "192.0.2.1", "fd00:2::5"])
def test_forged_inner_source_is_dropped(wan, source):
    client, berlin = wan.client(), wan.site("berlin")
    forged = datagram(source, client.addresses[6 if ":" in source else 4])
    wan.counted("spoofed_source", lambda: berlin.send(forged), "acme")
    berlin.send(datagram(berlin.address(4), client.addresses[4], b"true"))
    assert bytes(client.packet()[UDP].payload) == b"true"


def test_equal_addresses_in_two_tenants_and_two_networks_never_meet(wan):
    """Three sites with the same prefix, three clients with the same address, the same ports: each pair by itself."""
    addresses = ["100.96.8.8"]
    pairs = [
        (wan.client("acme", addresses=addresses), wan.site("berlin")),
        (wan.client("globex", addresses=addresses), wan.site("rome")),
        (wan.client("acme", addresses=addresses, network="lab"), wan.site("lab")),
    ]
    for round_ in range(3):
        for number, (client, _) in enumerate(pairs):
            client.send(datagram(addresses[0], "10.1.0.5", b"out %d %d" % (round_, number)))
        for number, (_, site) in enumerate(pairs):
            assert bytes(site.packet()[UDP].payload) == b"out %d %d" % (round_, number)
        for number, (_, site) in reversed(list(enumerate(pairs))):
            site.send(datagram("10.1.0.5", addresses[0], b"back %d %d" % (round_, number), 4001, 4000))
        for number, (client, _) in enumerate(pairs):
            assert bytes(client.packet()[UDP].payload) == b"back %d %d" % (round_, number)
    for client, _ in pairs:
        client.sock.settimeout(0)
        with pytest.raises(BlockingIOError):
            client.receive()


@pytest.mark.parametrize(("name", "tenant", "options"), [("rome", "globex", {}), ("lab", "acme", {"network": "lab"})])
def test_fragments_of_two_tenants_or_networks_never_join(wan, name, tenant, options):
    client, berlin = wan.client(), wan.site("berlin")
    other, site = wan.client(tenant, addresses=[client.addresses[4]], **options), wan.site(name)
    source, whole = client.addresses[4], b"A" * 1200
    udp = bytes(IP(src=source, dst="10.1.0.5") / UDP(sport=4500, dport=4501) / Raw(whole))[20:]

    def piece(at, end, more):
        return bytes(IP(src=source, dst="10.1.0.5", proto=17, id=5, frag=at // 8, flags=int(more)) / Raw(udp[at:end]))

    client.send(piece(0, 800, True))
    other.send(piece(800, len(udp), False))
    wan.canary(client, berlin)
    wan.canary(other, site)
    client.send(piece(800, len(udp), False))  # its own rest: whole after all
    assert len(berlin.receive()) == 20 + len(udp)


def test_error_about_a_flow_of_another_tenant_reaches_nobody(wan):
    client, berlin, rome = wan.client(), wan.site("berlin"), wan.site("rome")
    client.send(datagram(client.addresses[4], "10.1.0.5", sport=4600))
    arrived = berlin.receive()
    error = bytes(IP(src="10.1.0.5", dst=client.addresses[4]) / ICMP(type=3, code=3) / Raw(arrived[:28]))
    wan.counted("icmp_unsupported", lambda: rome.send(error), "globex")
    berlin.send(error)
    assert client.packet()[ICMP].type == 3


def test_packet_for_the_tunnels_own_end_is_no_loop(wan):
    berlin = wan.site("berlin")
    inner = bytes(IP(src="10.1.0.5", dst="127.0.0.1") / UDP(sport=1, dport=6080) / Raw(b"\x00\x04\x00\x00"))
    wan.counted("tunnel_loop", lambda: berlin.send(inner), "acme")


def test_second_flow_with_the_same_tuple_in_a_tunnel_is_refused(wan):
    """Two clients cannot have one address; a client and a site that may send from it can."""
    berlin, paris = wan.site("berlin"), wan.site("paris")
    client = wan.client(addresses=["100.96.7.7"])
    berlin.send(datagram("10.9.0.5", client.addresses[4]))
    assert client.packet()[IP].src == "10.9.0.5"
    wan.counted("flow_collision", lambda: paris.send(datagram("10.9.0.5", client.addresses[4])), "acme")
    berlin.send(datagram("10.9.0.5", client.addresses[4], b"again"))
    assert bytes(client.packet()[UDP].payload) == b"again"


def test_segment_without_flow_is_forwarded_and_a_reset_opens_nothing(wan):
    client, berlin = wan.client(), wan.site("berlin")
    head = network(4, client.addresses[4], "10.1.0.5")
    wan.counted("stray", lambda: client.send(bytes(head / TCP(sport=4700, dport=80, flags="R"))), "acme")
    client.send(bytes(head / TCP(sport=4700, dport=80, flags="A", seq=5, ack=6)))
    assert berlin.packet()[TCP].flags == "A"
    assert until(lambda: wan.control.flows([("tenant", "acme"), ("src_port", "4700")]).items)

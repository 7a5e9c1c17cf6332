"""Path MTU in both families: a tunnel narrower than the path, a path narrower than the tunnel."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import ICMPv6PacketTooBig
from scapy.packet import Raw

from proxy.packet.fragment import split
from tests.netns import needs_root
from tests.packet.conformance.ends import Connection
from tests.packet.conformance.test_icmp import ECHO, echo, is_echo
from tests.packet.conformance.wires import (
    FAR_ROUTER,
    PROXY,
    SCRIPTED,
    datagram,
    is_icmp_error,
    is_udp_to,
    joined,
    received,
)
from tests.packet.script import describe
from tests.packets import decode, network, parsed
from tests.running import until

pytestmark = [pytest.mark.netns, needs_root]

NARROW = 1300
TOO_BIG = {4: "ICMP 3/4", 6: "ICMPv6 2/0"}


def is_too_narrow(stage, packet):
    """Tell the proxy that its packet does not fit on the way."""
    version = packet[0] >> 4
    message = ICMP(type=3, code=4, nexthopmtu=NARROW) if version == 4 else ICMPv6PacketTooBig(mtu=NARROW)
    head = network(version, FAR_ROUTER[version], PROXY[version])
    stage.network.send(bytes(head / message / Raw(packet[:128])))


def told_mtu(packet):
    """The next hop's MTU in a Packet Too Big of either family."""
    at = parsed(packet).l4
    return int.from_bytes(packet[at + 6 : at + 8] if packet[0] >> 4 == 4 else packet[at + 4 : at + 8], "big")


def address(stage, version):
    """A destination that no other script has used: the kernel remembers the MTU of every path."""
    return f"10.67.0.{stage.port % 200 + 20}" if version == 4 else f"fd00:67::{stage.port:x}"


def test_datagram_that_may_not_be_cut_is_reported_too_big(stage, offload, version):
    """First by the router, with the client's packet quoted; from then on by the proxy, which knows the path."""
    client, dst = stage.scripted(offload=offload, mtu=1500), address(stage, version)
    sport, dport = stage.port, stage.port
    payload = bytes(1400)
    fields = {"dst": dst, "flags": "DF"} if version == 4 else {"dst": dst}
    packet = datagram(client, version, sport, dport, payload, **fields)
    client.send(packet)
    is_too_narrow(stage, stage.network.next(is_udp_to(dport)))
    first = client.next(is_icmp_error)
    assert describe(first).startswith(f"{FAR_ROUTER[version]} > {client.addresses[version]}")
    assert told_mtu(first) == NARROW
    dropped = stage.dropped("too_big")
    client.send(packet)
    second = client.next(is_icmp_error)
    assert TOO_BIG[version] in describe(second)
    assert told_mtu(second) == NARROW
    assert stage.dropped("too_big") == dropped + 1
    small = datagram(client, version, sport, dport, bytes(NARROW - 60), **fields)
    client.send(small)
    assert received(stage.network.next(is_udp_to(dport)))[4] == bytes(NARROW - 60)


def test_datagram_that_may_be_cut_goes_on_in_fragments(stage, offload, version):
    """Without DF, and of IPv6 what the client itself sent in fragments."""
    client, dst = stage.scripted(offload=offload, mtu=1500), address(stage, version)
    sport, dport = stage.port, stage.port
    probe = {"dst": dst, "flags": "DF"} if version == 4 else {"dst": dst}
    client.send(datagram(client, version, sport, dport, bytes(1400), **probe))
    is_too_narrow(stage, stage.network.next(is_udp_to(dport)))
    client.next(is_icmp_error)
    payload = random.Random(1).randbytes(1440)
    whole = datagram(client, version, sport, dport, payload, dst=dst)
    client.send(*(split(whole, 1280, stage.port) if version == 6 else [whole]))
    sizes = []

    def fragment(packet):
        is_wanted = is_udp_to(dport)(packet)
        sizes.extend([len(packet)] if is_wanted else [])
        return is_wanted

    assert received(joined(stage.network, fragment))[4] == payload
    assert len(sizes) > 1
    assert max(sizes) <= NARROW


def test_big_ping_that_may_not_be_cut_is_reported_too_big(stage, offload, version):
    client = stage.scripted(offload=offload, mtu=1500)
    ident = stage.port
    fields = {"flags": "DF", "dst": address(stage, 4)} if version == 4 else {"dst": address(stage, 6)}
    client.send(echo(client, version, ident, payload=bytes(1400), **fields))
    is_too_narrow(stage, stage.network.next(is_echo(version, ECHO)))
    told = client.next(is_icmp_error)
    assert (TOO_BIG[version] in describe(told), told_mtu(told)) == (True, NARROW)
    found = parsed(told)
    quoted = told[found.l4 + 8 :]
    at = parsed(quoted).l4 if len(quoted) > 1400 else (20 if version == 4 else 40)
    assert int.from_bytes(quoted[at + 4 : at + 6], "big") == ident


def test_narrow_path_of_a_connection_is_the_proxys_own_matter(stage, offload, version):
    """Its kernel sends again in smaller segments; the client is told nothing, and everything arrives."""
    client = stage.scripted(offload=offload, mtu=1500)
    c = Connection(stage, client, version, dst=address(stage, version))
    c.established(mss=1400)
    data = random.Random(2).randbytes(7000)
    for at in range(0, 7000, 1400):
        c.client.sends("PA", data[at : at + 1400])
    first = stage.network.next(lambda packet: c.origin._is_mine(packet) and len(packet) > NARROW)
    is_too_narrow(stage, first)
    got = b""
    while len(got) < 7000:
        packet = stage.network.next(c.origin._is_mine)
        segment = decode(packet).payload
        if c.origin.relative(segment.seq, c.origin.their_isn) == c.origin.seen and len(packet) <= NARROW:
            part = bytes(segment.payload)
            got, c.origin.seen = got + part, c.origin.seen + len(part)
            c.origin.sends("A")
    assert got == data
    assert [seen for seen in client.canary(version) if "ICMP" in seen] == []


def test_wide_path_into_a_narrow_tunnel_in_fragments(stage, offload, version):
    """An origin's datagram of 1,400 bytes reaches a client behind 1,280: in fragments, of IPv6 with their header."""
    client = stage.scripted(offload=offload, mtu=1280)
    sport, dport = stage.port, stage.port
    client.send(datagram(client, version, sport, dport, b"?"))
    src, port, _, _, _ = received(stage.network.next(is_udp_to(dport)))
    payload = random.Random(3).randbytes(1400)
    stage.network.send(bytes(network(version, SCRIPTED[version], src) / UDP(sport=dport, dport=port) / Raw(payload)))
    pieces = []

    def fragment(packet):
        pieces.append(parsed(packet).is_fragment)
        return is_udp_to(sport)(packet)

    assert received(joined(client, fragment))[4] == payload
    assert pieces == [True, True]


def test_lie_about_the_path_is_not_believed(stage, client, version):
    """A Packet Too Big that quotes no packet of the flow's changes nothing."""
    sport, dport = stage.port, stage.port
    client.send(datagram(client, version, sport, dport, b"?"))
    packet = bytearray(stage.network.next(is_udp_to(dport)))
    at = parsed(packet).l4
    packet[at : at + 2] = b"\x00\x01"  # a port that the proxy does not use
    is_too_narrow(stage, bytes(packet))
    client.send(datagram(client, version, sport, dport, b"again"))
    assert received(stage.network.next(is_udp_to(dport)))[4] == b"again"
    assert client.canary(version) == []


def test_record_counts_what_was_too_big_as_dropped_not_as_an_end(stage, offload, version):
    client = stage.scripted(offload=offload, mtu=9000)
    sport, dport = stage.port, stage.port
    fields = {"flags": "DF", "dst": address(stage, 4)} if version == 4 else {"dst": address(stage, 6)}
    client.send(datagram(client, version, sport, dport, bytes(5000), **fields))
    told = client.next(is_icmp_error)
    assert told_mtu(told) == 1500  # the proxy's own link
    client.send(datagram(client, version, sport, dport, b"small", **fields))
    assert received(stage.network.next(is_udp_to(dport)))[4] == b"small"
    client.close()
    (record,) = until(lambda: stage.ended(src=client.addresses[version], src_port=sport))
    assert record.close_reason == "tunnel_closed"

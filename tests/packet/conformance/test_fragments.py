"""Fragments of a client by way of the real proxy: any order, overlaps, tiny ones, floods, and those that never end."""

from __future__ import annotations

import random

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrFragment
from scapy.packet import Raw

from proxy.packet.fragment import split
from tests.netns import needs_root
from tests.packet.conformance.ends import Connection
from tests.packet.conformance.wires import SCRIPTED, ScriptedStage, datagram, is_udp_to, joined, received
from tests.packets import network, parsed
from tests.running import CONFIGURATION, staged, until

pytestmark = [pytest.mark.netns, needs_root]


@pytest.fixture(scope="module")
def running():
    """A short time for reassembly, and a tenant that may hold little."""
    text = CONFIGURATION.replace("context_s: 2", "context_s: 2, fragments_s: 1")
    text = text.replace("limits: {flows: 200}", "limits: {bytes_held: 20000}")
    with staged(ScriptedStage, configuration=text) as stage:
        yield stage


def fragment(client, version, ident, payload, at, more, protocol=17):
    """One fragment by hand; `at` in bytes."""
    src, dst = client.addresses[version], SCRIPTED[version]
    if version == 4:
        head = IP(src=src, dst=dst, proto=protocol, id=ident, frag=at // 8, flags=int(more))
    else:
        head = IPv6(src=src, dst=dst) / IPv6ExtHdrFragment(nh=protocol, id=ident, offset=at // 8, m=int(more))
    return bytes(head / Raw(payload))


def body(client, version, sport, dport, payload):
    """A UDP datagram without its IP header, its checksum good."""
    packet = datagram(client, version, sport, dport, payload)
    return packet[parsed(packet).l4 :]


ORDERS = {
    "forwards": lambda pieces: pieces,
    "backwards": lambda pieces: pieces[::-1],
    "last first": lambda pieces: pieces[-1:] + pieces[:-1],
    "shuffled": lambda pieces: random.Random(1).sample(pieces, len(pieces)),
    "each twice": lambda pieces: [piece for piece in pieces for _ in range(2)][:-1],
}


@pytest.mark.parametrize("order", ORDERS)
def test_any_order_makes_the_same_datagram(stage, client, version, order):
    sport, dport = stage.port, stage.port
    payload = random.Random(2).randbytes(9000)
    client.send(*ORDERS[order](split(datagram(client, version, sport, dport, payload), 1280, stage.port)))
    assert received(joined(stage.network, is_udp_to(dport)))[4] == payload


def test_two_datagrams_interleaved_are_not_mixed(stage, client, version):
    sport, dport = stage.port, stage.port
    payloads = [random.Random(number).randbytes(3000) for number in range(2)]
    pieces = [split(datagram(client, version, sport, dport, payload), 1280, stage.port) for payload in payloads]
    client.send(*(piece for pair in zip(*pieces, strict=True) for piece in pair))
    assert [received(joined(stage.network, is_udp_to(dport)))[4] for _ in payloads] == payloads


@pytest.mark.parametrize("size", [8, 16])
def test_tiny_fragments_that_split_the_udp_header_still_make_a_datagram(stage, client, version, size):
    """Nothing is decided on a header that is not whole (RFC 1858): ports are read after reassembly."""
    sport, dport = stage.port, stage.port
    whole = body(client, version, sport, dport, b"tiny fragments, all of them")
    ident = stage.port
    for at in range(0, len(whole), size):
        client.send(fragment(client, version, ident, whole[at : at + size], at, at + size < len(whole)))
    assert received(stage.network.next(is_udp_to(dport)))[4] == b"tiny fragments, all of them"


OVERLAPS = {
    "teardrop": [(0, 40, True), (24, 8, False)],
    "one byte": [(0, 24, True), (16, 40, False)],
    "within": [(0, 64, True), (16, 16, True), (64, 8, False)],
    "around": [(16, 16, True), (0, 64, True)],
    "two ends": [(16, 16, False), (24, 24, False)],
    "beyond the end": [(16, 8, False), (24, 16, True), (0, 16, True)],
}  # fmt: skip


@pytest.mark.parametrize("name", OVERLAPS)
def test_overlap_throws_the_datagram_away(stage, client, version, name):
    """All of it, and counted (RFC 5722)."""
    before, ident = stage.dropped("fragment_overlap"), stage.port
    for number, (at, size, more) in enumerate(OVERLAPS[name]):
        client.send(fragment(client, version, ident, bytes([number + 1]) * size, at, more))
    assert stage.quiet(client, version) == ([], [])
    assert stage.dropped("fragment_overlap") > before


IMPOSSIBLE = {"ping of death": (65_528, 64, False), "empty": (8, 0, True), "odd length": (8, 13, True)}


@pytest.mark.parametrize("name", IMPOSSIBLE)
def test_impossible_fragment_is_counted_and_kept_by_nobody(stage, client, version, name):
    before = stage.dropped("bad_header")
    at, size, more = IMPOSSIBLE[name]
    client.send(fragment(client, version, stage.port, bytes(size), at, more))
    assert stage.quiet(client, version) == ([], [])
    assert stage.dropped("bad_header") == before + 1


def test_fragment_with_a_broken_sum_over_the_whole_goes_nowhere(stage, client, version):
    sport, dport = stage.port, stage.port
    before = stage.dropped("bad_l4_checksum")
    packet = datagram(client, version, sport, dport, bytes(3000), chksum=0x1234)
    client.send(*split(packet, 1280, stage.port))
    assert stage.quiet(client, version) == ([], [])
    assert stage.dropped("bad_l4_checksum") == before + 1


def test_fragment_with_a_strange_source_is_not_kept(stage, client, version):
    before = stage.dropped("spoofed_source")
    sport, dport = stage.port, stage.port
    stranger = {4: "100.96.77.77", 6: "fd00:96::77:77"}[version]
    packet = datagram(client, version, sport, dport, bytes(3000), src=stranger)
    client.send(*split(packet, 1280, stage.port))
    assert stage.quiet(client, version) == ([], [])
    assert stage.dropped("spoofed_source") == before + 3


@pytest.mark.slow
def test_datagram_that_is_never_whole_is_given_up_and_counted(stage, offload, version):
    client = stage.scripted("globex", offload=offload)
    before, dport = stage.dropped("fragment_timeout", "globex"), stage.port
    pieces = split(datagram(client, version, stage.port, dport, bytes(3000)), 1280, stage.port)
    client.send(*pieces[:-1])
    until(lambda: stage.dropped("fragment_timeout", "globex") == before + len(pieces) - 1)
    client.send(pieces[-1])  # too late: it waits alone
    assert stage.quiet(client, version) == ([], [])
    until(lambda: stage.dropped("fragment_timeout", "globex") == before + len(pieces))


@pytest.mark.slow
def test_flood_of_first_fragments_is_bounded_and_other_tenants_do_not_notice(stage, offload, version):
    """globex may hold 20,000 bytes."""
    flooder, other = stage.scripted("globex", offload=offload), stage.scripted(offload=offload)
    before = stage.dropped("fragment_limit", "globex")
    for number in range(100):
        flooder.send(fragment(flooder, version, number, bytes(1200), 0, True))
    flooder.canary(version)
    assert stage.dropped("fragment_limit", "globex") == before + 100 - 16
    sport, dport = stage.port, stage.port
    other.send(*split(datagram(other, version, sport, dport, bytes(9000)), 1280, stage.port))
    assert received(joined(stage.network, is_udp_to(dport)))[4] == bytes(9000)
    lost = stage.dropped("fragment_timeout", "globex")
    until(lambda: stage.dropped("fragment_timeout", "globex") >= lost + 16)
    flooder.send(*split(datagram(flooder, version, sport, dport, bytes(9000)), 1280, stage.port))
    assert received(joined(stage.network, is_udp_to(dport)))[4] == bytes(9000)


def test_tcp_in_fragments_reaches_the_kernel_whole(stage, client, version):
    c = Connection(stage, client, version)
    c.established()
    segment = client.segment(version, c.sport, c.dport, "PA", dst=c.client.there[0], payload=bytes(1000),
                             seq=c.client.isn + 1, ack=c.client.their_isn + 1)  # fmt: skip
    client.send(*split(segment, 576, stage.port)[::-1])
    assert c.origin.reads(1000) == bytes(1000)


def test_answer_in_fragments_comes_back_whole_or_in_fragments_that_fit(stage, client, version):
    """The origin's own fragments are put together by the proxy's kernel, and cut anew for the tunnel."""
    sport, dport = stage.port, stage.port
    client.send(datagram(client, version, sport, dport, b"?"))
    src, port, _, _, _ = received(stage.network.next(is_udp_to(dport)))
    payload = random.Random(5).randbytes(20_000)
    stage.network.send(bytes(network(version, SCRIPTED[version], src) / UDP(sport=dport, dport=port) / Raw(payload)))
    assert received(joined(client, is_udp_to(sport)))[4] == payload

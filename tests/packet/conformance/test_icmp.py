"""ICMP in both families: echo by way of the proxy, errors of others brought back to their flow, errors of our own."""

from __future__ import annotations

import struct

import pytest
from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    ICMPv6EchoRequest,
    ICMPv6ParamProblem,
    ICMPv6TimeExceeded,
    ICMPv6Unknown,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrHopByHop,
    PadN,
)
from scapy.packet import Raw

from proxy.packet.fragment import split
from proxy.packet.icmp_errors import BURST
from proxy.wire.checksum import checksum
from tests.netns import needs_root
from tests.packet.conformance.wires import FAR_ROUTER, HOP, PROXY, SCRIPTED, datagram, is_icmp_error, joined
from tests.packet.script import describe
from tests.packets import decode, network, pack, parsed
from tests.running import until

pytestmark = [pytest.mark.netns, needs_root]

ECHO = {4: 8, 6: 128}
REPLY = {4: 0, 6: 129}


def echo(client, version, ident, seq=1, payload=b"ping", **fields):
    """An echo request to the scripted origin."""
    message = ICMP(id=ident, seq=seq) if version == 4 else ICMPv6EchoRequest(id=ident, seq=seq)
    head = network(version, client.addresses[version], fields.pop("dst", SCRIPTED[version]), **fields)
    return bytes(head / message / Raw(payload))


def is_echo(version, kind):
    def wanted(packet):
        found = parsed(packet)
        is_icmp = found.version == version and found.protocol in (1, 58)
        return is_icmp and (found.is_fragment or packet[found.l4] == kind[version])

    return wanted


def asked(stage, version):
    """The proxy's echo request as the origin sees it: source, identifier, sequence number, payload."""
    packet = joined(stage.network, is_echo(version, ECHO))
    found = parsed(packet)
    ident, seq = struct.unpack_from("!HH", packet, found.l4 + 4)
    return decode(packet).src, ident, seq, packet[found.l4 + 8 : found.end]


def answer(stage, version, to, ident, seq, payload, by=SCRIPTED):
    message = ICMP(type=0, id=ident, seq=seq) if version == 4 else ICMPv6EchoReply(id=ident, seq=seq)
    stage.network.send(bytes(network(version, by[version], to) / message / Raw(payload)))


def got(client, version):
    """The echo reply that the client got: identifier, sequence number, payload."""
    packet = joined(client, is_echo(version, REPLY))
    found = parsed(packet)
    assert decode(packet).src == SCRIPTED[version]
    return *struct.unpack_from("!HH", packet, found.l4 + 4), packet[found.l4 + 8 : found.end]


def says(stage, version, message, quoted):
    """A router beyond says `message` about a packet of the proxy's."""
    packet = network(version, FAR_ROUTER[version], PROXY[version]) / message / Raw(quoted[:128])
    stage.network.send(bytes(packet))


def test_two_clients_with_one_identifier_each_get_their_answer(stage, client, version):
    """The identifier towards the origin is the proxy's own; the client's comes back (RFC 5508 3.1)."""
    other = stage.scripted()
    client.send(echo(client, version, 7, payload=b"mine"))
    first = asked(stage, version)
    other.send(echo(other, version, 7, payload=b"theirs"))
    second = asked(stage, version)
    assert (first[0], first[3], second[3]) == (PROXY[version], b"mine", b"theirs")
    assert first[1] != second[1]
    for request in (second, first):
        answer(stage, version, *request)
    assert got(client, version) == (7, 1, b"mine")
    assert got(other, version) == (7, 1, b"theirs")


@pytest.mark.parametrize("size", [0, 1, 56, 1232, 1233, 1400, 4000])
def test_pings_of_every_size_keep_sequence_and_payload(stage, client, version, size):
    payload = bytes(number % 251 for number in range(size))
    for seq in (0, 1, 65_535):
        client.send(*split(echo(client, version, 9, seq, payload), 1280, stage.port))
        to, ident, number, same = asked(stage, version)
        assert (number, same) == (seq, payload)
        answer(stage, version, to, ident, number, same)
        assert got(client, version) == (9, seq, payload)


def test_answer_that_was_not_asked_for_is_nobodys(stage, client, version):
    client.send(echo(client, version, 7))
    to, ident, seq, _ = asked(stage, version)
    answer(stage, version, to, ident ^ 0x55, seq, b"not asked")
    answer(stage, version, to, ident, seq, b"asked")
    assert got(client, version)[2] == b"asked"


def test_answer_of_another_host_is_nobodys(stage, client, version):
    """Even if it knows the identifier, and Linux hands it to the socket."""
    client.send(echo(client, version, 7))
    to, ident, seq, _ = asked(stage, version)
    answer(stage, version, to, ident, seq, b"spoofed", by=FAR_ROUTER)
    answer(stage, version, to, ident, seq, b"real")
    assert got(client, version)[2] == b"real"


ERRORS = {
    4: {"host unreachable": (ICMP(type=3, code=1), "ICMP 3/1"), "prohibited": (ICMP(type=3, code=13), "ICMP 3/13"),
        "time exceeded": (ICMP(type=11), "ICMP 11/0"),  # not code 1: Linux keeps that to itself (net/ipv4/icmp.c)
        "parameter problem": (ICMP(type=12, ptr=9), "ICMP 12/0")},
    6: {"address unreachable": (ICMPv6DestUnreach(code=3), "ICMPv6 1/3"),
        "prohibited": (ICMPv6DestUnreach(code=1), "ICMPv6 1/1"), "time exceeded": (ICMPv6TimeExceeded(), "ICMPv6 3/0"),
        "reassembly": (ICMPv6TimeExceeded(code=1), "ICMPv6 3/1"),
        "parameter problem": (ICMPv6ParamProblem(code=0, ptr=9), "ICMPv6 4/0")},
}  # fmt: skip
CASES = [(of, name) for of, names in ERRORS.items() for name in names]


@pytest.mark.parametrize(("of", "name"), CASES)
@pytest.mark.parametrize("protocol", ["udp", "ping"])
def test_error_of_a_router_comes_back_to_its_flow(stage, offload, of, name, protocol):
    """Whoever said it, about the client's own packet, with type, code and pointer."""
    client = stage.scripted(offload=offload)
    message, said = ERRORS[of][name]
    sport, dport = stage.port, stage.port
    if protocol == "udp":
        client.send(datagram(client, of, sport, dport, b"?" * 20))
        quoted = stage.network.next(lambda packet: parsed(packet).protocol == 17 and decode(packet)[UDP].dport == dport)
    else:
        client.send(echo(client, of, 7, payload=b"?" * 20))
        quoted = stage.network.next(is_echo(of, ECHO))
    says(stage, of, message, quoted)
    packet = client.next(is_icmp_error)
    assert describe(packet) == f"{FAR_ROUTER[of]} > {client.addresses[of]} {said} about {SCRIPTED[of]}"
    found = parsed(packet)
    if name == "parameter problem":
        assert packet[found.l4 + 4 : found.l4 + 8] == (b"\x09\0\0\0" if of == 4 else b"\0\0\0\x09")
    inner = parsed(packet[found.l4 + 8 :])
    at = found.l4 + 8 + inner.l4
    assert inner.source == pack(client.addresses[of])
    if protocol == "udp":
        assert struct.unpack_from("!HH", packet, at) == (sport, dport)
    else:
        assert (packet[at], struct.unpack_from("!H", packet, at + 4)[0]) == (ECHO[of], 7)


@pytest.mark.parametrize("protocol", ["tcp", "udp", "ping"])
@pytest.mark.parametrize("ttl", [0, 1])
def test_hop_limit_that_ends_here_is_told_by_the_proxy(stage, client, version, protocol, ttl):
    packet = {
        "tcp": lambda: client.segment(version, stage.port, 80, "S", dst=SCRIPTED[version]),
        "udp": lambda: datagram(client, version, stage.port, stage.port, b"?"),
        "ping": lambda: echo(client, version, 7),
    }[protocol]()
    spot = 8 if version == 4 else 7
    packet = bytearray(packet)
    packet[spot] = ttl
    if version == 4:
        packet[10:12] = bytes(2)
        packet[10:12] = checksum(packet[:20]).to_bytes(2, "big")
    client.send(bytes(packet))
    said = {4: "ICMP 11/0", 6: "ICMPv6 3/0"}[version]
    assert client.told() == f"{HOP[version]} > {client.addresses[version]} {said} about {SCRIPTED[version]}"
    assert stage.quiet(client, version) == ([], [])


def test_hop_limit_goes_on_one_less(stage, client, version):
    """The proxy is one hop; the router between it and the script another."""
    for ttl in (3, 64, 255):
        dport = stage.port
        client.send(datagram(client, version, stage.port, dport, b"?", ttl=ttl))
        packet = stage.network.next(lambda packet, d=dport: parsed(packet).protocol == 17
                                    and decode(packet)[UDP].dport == d)  # fmt: skip
        assert parsed(packet).ttl == ttl - 2
        client.send(echo(client, version, 7, ttl=ttl))
        assert parsed(stage.network.next(is_echo(version, ECHO))).ttl == ttl - 2


def test_next_hop_shows_itself(stage, client, version):
    """Two hops: the proxy's kernel sends with a TTL of 1, and the router behind it says so."""
    client.send(datagram(client, version, stage.port, stage.port, b"?", ttl=2))
    router = {4: "10.50.0.10", 6: "fd00:50::10"}[version]
    said = {4: "ICMP 11/0", 6: "ICMPv6 3/0"}[version]
    assert client.told() == f"{router} > {client.addresses[version]} {said} about {SCRIPTED[version]}"


def test_unknown_protocol_names_itself(stage, client, version):
    packet = bytes(network(version, client.addresses[version], SCRIPTED[version],
                           **{"proto" if version == 4 else "nh": 132}) / Raw(bytes(20)))  # fmt: skip
    client.send(packet)
    error = client.next(is_icmp_error)
    said = {4: "ICMP 3/2", 6: "ICMPv6 4/1"}[version]
    assert describe(error) == f"{HOP[version]} > {client.addresses[version]} {said} about {SCRIPTED[version]}"
    if version == 6:
        assert error[44:48] == (6).to_bytes(4, "big")  # the base header's own next-header field


def test_pointer_leads_to_the_header_that_is_not_known(stage, client):
    """Behind extension headers it is the field that names the unknown one (RFC 4443 3.4)."""
    options = [PadN(optdata=bytes(4))]
    chain = network(6, client.addresses[6], SCRIPTED[6]) / IPv6ExtHdrHopByHop(options=options)
    client.send(bytes(chain / IPv6ExtHdrDestOpt(options=options, nh=132) / Raw(bytes(20))))
    error = client.next(is_icmp_error)
    pointer = int.from_bytes(error[44:48], "big")
    quoted = error[48:]
    assert (pointer, quoted[pointer]) == (48, 132)


def test_own_errors_are_rate_limited_and_counted(stage, offload, version):
    """Of globex, which has the allowance of a whole second; acme's is its own."""
    client, other = stage.scripted("globex", offload=offload), stage.scripted()
    limited = stage.dropped("rate_limited", "globex")
    packet = datagram(client, version, 1, 2, b"?", ttl=1)
    client.send(*([packet] * 400))
    told = [seen for seen in client.canary(version) if "ICMP" in seen]
    assert len(told) <= BURST + 200
    until(lambda: stage.dropped("rate_limited", "globex") - limited == 400 - len(told))
    assert stage.dropped("rate_limited", "globex") > limited
    other.send(datagram(other, version, 1, 2, b"?", ttl=1))
    assert "ICMP" in other.told()


@pytest.mark.parametrize(("kind", "code"), [(0, 0), (3, 3), (4, 0), (5, 1), (9, 0), (10, 0), (13, 0), (15, 0), (17, 0)])
def test_icmp_of_the_client_that_is_no_echo_request_goes_nowhere(stage, client, kind, code):
    before = stage.dropped("icmp_unsupported")
    body = bytes(network(4, SCRIPTED[4], client.addresses[4]) / UDP())
    head = network(4, client.addresses[4], SCRIPTED[4])
    client.send(bytes(head / ICMP(type=kind, code=code) / Raw(body)))
    assert stage.quiet(client) == ([], [])
    assert stage.dropped("icmp_unsupported") == before + 1


@pytest.mark.parametrize("kind", [129, 130, 131, 133, 134, 135, 136, 137])
def test_icmpv6_of_the_client_that_is_no_echo_request_goes_nowhere(stage, client, kind):
    before = stage.dropped("icmp_unsupported")
    head = network(6, client.addresses[6], SCRIPTED[6])
    client.send(bytes(head / ICMPv6Unknown(type=kind, msgbody=bytes(20))))
    assert stage.quiet(client, 6) == ([], [])
    assert stage.dropped("icmp_unsupported") == before + 1

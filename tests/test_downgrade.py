"""Flows between two tunnels at level stream, in the whole proxy: up to sockets, and down to packets again.

near: client --(SEQPACKET)--> proxy: kernel's TCP, relay, kernel's TCP --(SEQPACKET)--> far: client of the same network
"""

from __future__ import annotations

import hashlib
import random
import socket
import threading

import pytest
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.layers.inet6 import ICMPv6DestUnreach, ICMPv6PacketTooBig
from scapy.packet import Raw

from proxy.flow.fragments import Fragments
from proxy.packet.fragment import split
from tests.applications import PACKET_PORT
from tests.netns import needs_root
from tests.packet.script import describe
from tests.packets import decode, network, parsed, recomputed
from tests.running import PATIENCE_S, staged, until

pytestmark = [pytest.mark.netns, needs_root]
FAMILIES = pytest.mark.parametrize("version", [4, 6])
MODES = pytest.mark.parametrize(("near_offload", "far_offload"), [(0, 0), (1, 0), (0, 1), (1, 1)])
HEADERS = {4: 40, 6: 60}
ROUTED = {4: "100.96.0.0/12", 6: "fd00:96::/32"}
CONFIGURATION = """
node: edge
tenants:
  acme:
    prefixes: [100.96.0.0/12, "fd00:96::/32"]
    networks:
      default:
        routes:
          - {prefix: 100.96.0.0/12, via: clients, level: stream}
          - {prefix: "fd00:96::/32", via: clients, level: stream}
onramps:
  - {kind: connected, path: ramp.sock}
hooks: tests.applications:ForwardsAsPackets
timeouts: {connect_s: 4, context_s: 2}
"""


@pytest.fixture(scope="module")
def running():
    with staged(configuration=CONFIGURATION) as stage:
        yield stage


@pytest.fixture
def stage(running):
    yield running
    running.after_test()


def without_repetitions(end):
    """Its `packet`, which passes over data and FINs that it has returned before: TCP may always send them again."""
    seen = set()

    def packet():
        while True:
            found = type(end).packet(end)
            if TCP not in found or not (found[TCP].payload or found[TCP].flags.F):
                return found
            segment = found[TCP]
            what = (found.src, segment.sport, segment.seq, bytes(segment.payload), bool(segment.flags.F))
            if what not in seen:
                seen.add(what)
                return found

    return packet


class Ends:
    """Two clients that speak packets: `near` opens connections, `far` is who they are for."""

    def __init__(self, stage, version, *, near_offload=0, far_offload=0, near_mtu=1280, far_mtu=1280, far=None):
        self.version = version
        self.near = stage.client(offload=bool(near_offload), mtu=near_mtu)
        self.far = far or stage.client(offload=bool(far_offload), mtu=far_mtu)
        for end in (self.near, self.far):
            end.packet = without_repetitions(end)
        self.here, self.there = self.near.addresses[version], self.far.addresses[version]

    def syn(self, port=80, **fields):
        """Dial; the SYN as it arrives at the far end."""
        options = [("MSS", 1460)]
        self.near.send(self.near.segment(self.version, 40_000, port, "S", dst=self.there, seq=1000, options=options))
        return self.far.packet()

    def reply(self, flags, *, port=80, payload=b"", **fields):
        """A segment of the far host's."""
        self.far.send(self.far.segment(self.version, port, 40_000, flags, dst=self.here, payload=payload, **fields))

    def report(self, message, about):
        """An ICMP error of the far host's."""
        self.far.send(bytes(network(self.version, self.there, self.here) / message / Raw(bytes(about))))

    def say(self, flags, *, payload=b"", **fields):
        """A segment of the near client's."""
        self.near.send(self.near.segment(self.version, 40_000, 80, flags, dst=self.there, payload=payload, **fields))

    def establish(self):
        """Both handshakes; the sequence numbers of the next byte to the near end, and to the far one."""
        syn = self.syn()
        to_far = syn[TCP].seq + 1
        self.reply("SA", seq=5000, ack=to_far, options=[("MSS", 1460)])
        assert self.far.packet()[TCP].flags == "A"
        answer = self.near.packet()
        assert (answer.src, answer[TCP].flags, answer[TCP].ack) == (self.there, "SA", 1001)
        to_near = answer[TCP].seq + 1
        self.say("A", seq=1001, ack=to_near)
        return to_near, to_far


def last(stage, ends):
    (record,) = until(lambda: stage.ended(src=ends.here, dst=ends.there))
    return record


def tunnels(stage, ends):
    """The names of the tunnels of both ends."""
    names = {address: tunnel.id for tunnel in stage.control.tunnels() for address in tunnel.addresses}
    return names[ends.here], names[ends.there]


@FAMILIES
@MODES
def test_connection_from_syn_to_fin_has_the_clients_own_address_at_both_ends(stage, version, near_offload, far_offload):
    ends = Ends(stage, version, near_offload=near_offload, far_offload=far_offload, far_mtu=1400)
    syn = ends.syn()
    assert (syn.src, syn.dst) == (ends.here, ends.there)
    assert (syn[TCP].sport, syn[TCP].dport, syn[TCP].flags) == (40_000, 80, "S")
    assert dict(syn[TCP].options)["MSS"] == 1400 - HEADERS[version]
    to_far = syn[TCP].seq + 1
    ends.reply("SA", seq=5000, ack=to_far, options=[("MSS", 1460)])
    assert ends.far.packet()[TCP].flags == "A"
    answer = ends.near.packet()
    to_near = answer[TCP].seq + 1
    assert dict(answer[TCP].options)["MSS"] <= 1460
    ends.say("A", seq=1001, ack=to_near)
    ends.say("PA", seq=1001, ack=to_near, payload=b"question")
    assert ends.near.packet()[TCP].ack == 1009
    question = ends.far.packet()
    assert (bytes(question[TCP].payload), question[TCP].seq) == (b"question", to_far)
    ends.reply("PA", seq=5001, ack=to_far + 8, payload=b"answer")
    assert ends.far.packet()[TCP].ack == 5007
    assert bytes(ends.near.packet()[TCP].payload) == b"answer"
    ends.say("FA", seq=1009, ack=to_near + 6)  # half-close: the other direction goes on
    fin = ends.far.packet()
    assert fin[TCP].flags == "FA"
    assert ends.near.packet()[TCP].ack == 1010
    ends.reply("A", seq=5007, ack=to_far + 9)
    ends.reply("PA", seq=5007, ack=to_far + 9, payload=b"more")
    assert ends.far.packet()[TCP].ack == 5011
    assert bytes(ends.near.packet()[TCP].payload) == b"more"
    ends.say("A", seq=1010, ack=to_near + 10)
    ends.reply("FA", seq=5011, ack=to_far + 9)
    assert ends.far.packet()[TCP].ack == 5012
    assert ends.near.packet()[TCP].flags == "FA"
    ends.say("A", seq=1010, ack=to_near + 11)
    record = last(stage, ends)
    assert (record.level, record.offramp, record.onramp) == ("stream", "tunnel", "connected")
    assert (record.tunnel, record.offramp_tunnel, record.route) == (
        *tunnels(stage, ends),
        f"{ROUTED[version]} via clients",
    )
    assert (record.close_reason, record.conn_state, record.history) == ("client_closed", "SF", "ShAFf")
    assert (record.total.client_payload_bytes, record.total.origin_payload_bytes) == (8, 10)
    assert (record.egress_ip, record.dst, record.dst_port) == (ends.here, ends.there, 80)


@FAMILIES
@MODES
def test_refusal_of_the_far_host_is_the_clients(stage, version, near_offload, far_offload):
    ends = Ends(stage, version, near_offload=near_offload, far_offload=far_offload)
    syn = ends.syn()
    ends.reply("RA", seq=0, ack=syn[TCP].seq + 1)
    assert describe(ends.near.receive()) == f"{ends.there} > {ends.here} TCP RA seq 0 ack 1001"
    record = last(stage, ends)
    assert (record.close_reason, record.conn_state, record.closed_by) == ("origin_refused", "REJ", "origin")


UNREACHABLE = [
    (4, ICMP(type=3, code=1), "ICMP 3/1"),
    (4, ICMP(type=3, code=13), "ICMP 3/13"),
    (4, ICMP(type=11, code=0), "ICMP 11/0"),
    (6, ICMPv6DestUnreach(code=0), "ICMPv6 1/0"),
    (6, ICMPv6DestUnreach(code=1), "ICMPv6 1/1"),
]


@pytest.mark.parametrize(("version", "message", "said"), UNREACHABLE)
@pytest.mark.parametrize("offload", [0, 1])
def test_error_of_the_far_network_is_the_clients(stage, version, message, said, offload):
    ends = Ends(stage, version, near_offload=offload, far_offload=offload)
    ends.report(message, ends.syn())
    assert describe(ends.near.receive()) == f"{ends.there} > {ends.here} {said} about {ends.there}"
    assert last(stage, ends).close_reason == "origin_unreachable"


@pytest.mark.slow
@FAMILIES
def test_silence_of_the_far_host_is_silence(stage, version):
    ends = Ends(stage, version)
    other = Ends(stage, version)
    ends.syn()
    record = last(stage, ends)
    assert record.close_reason == "origin_timeout"
    syn = other.syn()
    other.reply("RA", seq=0, ack=syn[TCP].seq + 1)
    other.near.receive()
    ends.near.sock.setblocking(False)
    with pytest.raises(BlockingIOError):
        ends.near.receive()


@FAMILIES
@MODES
@pytest.mark.parametrize("who", ["near", "far"])
def test_reset_crosses(stage, version, near_offload, far_offload, who):
    ends = Ends(stage, version, near_offload=near_offload, far_offload=far_offload)
    to_near, to_far = ends.establish()
    if who == "near":
        ends.say("R", seq=1001, ack=to_near)
        assert "R" in ends.far.packet()[TCP].flags
    else:
        ends.reply("R", seq=5001, ack=to_far)
        assert "R" in ends.near.packet()[TCP].flags
    assert last(stage, ends).close_reason == ("client_reset" if who == "near" else "origin_reset")


@FAMILIES
def test_packet_too_big_behind_the_tunnel_makes_segments_smaller(stage, version):
    mtu, ends = 1290, Ends(stage, version, near_mtu=1480, far_mtu=1480)
    to_near, to_far = ends.establish()
    ends.say("PA", seq=1001, ack=to_near, payload=bytes(1400))
    full = ends.far.packet()
    assert len(bytes(full)) > mtu
    ends.report(ICMP(type=3, code=4, nexthopmtu=mtu) if version == 4 else ICMPv6PacketTooBig(mtu=mtu), full)
    missing = set(range(to_far, to_far + 1400))
    while missing:
        again = ends.far.packet()
        if len(bytes(again)) <= mtu:
            missing -= set(range(again[TCP].seq, again[TCP].seq + len(again[TCP].payload)))


@FAMILIES
def test_packet_too_big_on_the_clients_side_makes_segments_smaller(stage, version):
    """What our kernel sends to the client is quoted too: a client may be a network behind a tunnel."""
    mtu, ends = 1290, Ends(stage, version, near_mtu=1480, far_mtu=1480)
    to_near, to_far = ends.establish()
    ends.reply("PA", seq=5001, ack=to_far, payload=bytes(1400))
    full = ends.near.packet()
    assert len(bytes(full)) > mtu
    too_big = ICMP(type=3, code=4, nexthopmtu=mtu) if version == 4 else ICMPv6PacketTooBig(mtu=mtu)
    ends.near.send(bytes(network(version, ends.here, ends.there) / too_big / Raw(bytes(full))))
    missing = set(range(to_near, to_near + 1400))
    while missing:
        again = ends.near.packet()
        if len(bytes(again)) <= mtu:
            missing -= set(range(again[TCP].seq, again[TCP].seq + len(again[TCP].payload)))


def digest_of(sock, octets):
    """What came on `sock` up to its end."""
    total, seen = hashlib.sha256(), 0
    while data := sock.recv(1 << 16):
        total.update(data)
        seen += len(data)
    assert seen == octets
    return total.digest()


def exchange(near, far, version, octets=3 << 20):
    """Connect from one kernel to the other, send that much both ways at once; how often it arrived as it was sent."""
    there = far.addresses[version]
    listener = far.run(socket.socket, socket.AF_INET if version == 4 else socket.AF_INET6)
    with listener:
        listener.bind((there, 80))
        listener.listen()
        listener.settimeout(PATIENCE_S)
        client = near.tcp(there, 80)
        server, (peer, *_) = listener.accept()
    assert peer == near.addresses[version]
    data, received = random.Random(version).randbytes(octets), []

    def move(sock):
        sender = threading.Thread(target=lambda: (sock.sendall(data), sock.shutdown(socket.SHUT_WR)))
        sender.start()
        received.append(digest_of(sock, octets))
        sender.join()

    with server:
        server.settimeout(PATIENCE_S)
        other = threading.Thread(target=move, args=(server,))
        other.start()
        move(client)
        other.join()
    return received.count(hashlib.sha256(data).digest())


@FAMILIES
@MODES
def test_bulk_both_ways_between_two_kernels_arrives_as_it_was_sent(stage, version, near_offload, far_offload):
    near, far = stage.laptop(offload=bool(near_offload)), stage.laptop(offload=bool(far_offload))
    assert exchange(near, far, version) == 2
    (record,) = until(lambda: stage.ended(src=near.addresses[version], dst=far.addresses[version]))
    assert (record.total.client_payload_bytes, record.total.origin_payload_bytes) == (3 << 20, 3 << 20)
    assert (record.level, record.offramp, record.conn_state) == ("stream", "tunnel", "SF")


def datagram(client, version, dst, payload, **fields):
    ports = {"sport": 40_000, "dport": 53, **fields}
    return recomputed(bytes(client.network(version, dst) / UDP(**ports) / Raw(payload)))


@FAMILIES
@MODES
def test_datagrams_cross_both_ways(stage, version, near_offload, far_offload):
    ends = Ends(stage, version, near_offload=near_offload, far_offload=far_offload)
    for payload in (b"question", b"again"):
        ends.near.send(datagram(ends.near, version, ends.there, payload))
        there = ends.far.packet()
        assert (there.src, there[UDP].sport, bytes(there[UDP].payload)) == (ends.here, 40_000, payload)
        ends.far.send(datagram(ends.far, version, ends.here, payload[::-1], sport=53, dport=40_000))
        here = ends.near.packet()
        assert (here.src, here[UDP].dport, bytes(here[UDP].payload)) == (ends.there, 40_000, payload[::-1])


@FAMILIES
def test_fragments_of_a_datagram_cross_whole(stage, version):
    ends = Ends(stage, version)
    payload = random.Random(1).randbytes(4000)
    for piece in split(datagram(ends.near, version, ends.there, payload), 1000, 7):
        ends.near.send(piece)
    fragments, joined = Fragments(timeout_s=15, max_bytes=100_000), None
    while not isinstance(joined, bytes):
        piece = ends.far.receive()
        assert len(piece) <= 1280
        joined = fragments.add(bytearray(piece), parsed(piece), 0)
    assert bytes(decode(joined)[UDP].payload) == payload
    for piece in split(datagram(ends.far, version, ends.here, payload, sport=53, dport=40_000), 1200, 8):
        ends.far.send(piece)
    joined = None
    while not isinstance(joined, bytes):
        piece = ends.near.receive()
        joined = fragments.add(bytearray(piece), parsed(piece), 0)
    assert bytes(decode(joined)[UDP].payload) == payload


@FAMILIES
def test_closed_port_of_the_far_host_is_told_to_the_client(stage, version):
    ends = Ends(stage, version)
    ends.near.send(datagram(ends.near, version, ends.there, b"anybody?"))
    unreachable = ICMP(type=3, code=3) if version == 4 else ICMPv6DestUnreach(code=4)
    ends.report(unreachable, ends.far.packet())
    said = "ICMP 3/3" if version == 4 else "ICMPv6 1/4"
    assert describe(ends.near.receive()) == f"{ends.there} > {ends.here} {said} about {ends.there}"


@FAMILIES
def test_far_tunnel_that_closes_ends_the_connection(stage, version):
    ends = Ends(stage, version)
    ends.establish()
    ends.far.close()
    assert "R" in ends.near.packet()[TCP].flags
    assert last(stage, ends).close_reason == "tunnel_closed"


@FAMILIES
def test_hook_may_choose_packets(stage, version):
    ends = Ends(stage, version)
    ttl = {"ttl": 9} if version == 4 else {"hlim": 9}
    packet = bytes(network(version, ends.here, ends.there, **ttl) / TCP(sport=40_000, dport=PACKET_PORT, seq=1000))
    ends.near.send(packet)
    syn = ends.far.packet()
    assert (syn[TCP].seq, syn.ttl if version == 4 else syn.hlim) == (1000, 8)
    ends.reply("RA", port=PACKET_PORT, seq=0, ack=1001)
    assert describe(ends.near.receive()).endswith("TCP RA seq 0 ack 1001")
    (flow,) = stage.control.flows([("all_tenants", "true"), ("ip", ends.here)]).items
    assert (flow.level, flow.offramp) == ("packet", "tunnel")

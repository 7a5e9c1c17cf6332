"""The kernel's table of connections, of real traffic through a router."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess
import sys

import pytest

from proxy.kernel import conntrack
from proxy.kernel.conntrack import Conntrack, ConntrackEvents
from proxy.wire.netlink import message
from tests.bridge.routed import CLIENT, ORIGIN, PUBLIC, key, routed, until
from tests.netns import needs_root

pytestmark = [
    pytest.mark.netns,
    needs_root,
    pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft"),
]
FAMILIES = pytest.mark.parametrize("version", [4, 6])
UDP, TCP, ECHO = socket.IPPROTO_UDP, socket.IPPROTO_TCP, {4: socket.IPPROTO_ICMP, 6: socket.IPPROTO_ICMPV6}
RULES = """
table inet t {
    chain early { type filter hook prerouting priority raw; iifname lan0 ct original zone set %d; }
    chain middle { type filter hook forward priority mangle; ct mark set 0x12345607; }
    chain late { type nat hook postrouting priority srcnat; }
}
"""
MARK = 0x1234_5607


@pytest.fixture(params=[0, 7])
def zone(request):
    return request.param


@pytest.fixture
def net(zone):
    with routed(RULES % zone) as net:
        yield net


@pytest.fixture
def table(net):
    table = net.router.run(Conntrack)
    yield table
    table.close()


def make_udp(net, version, port, source_port=5000):
    """One datagram of 10 bytes there and one of 20 back."""
    origin = net.serve(version, socket.SOCK_DGRAM, port)
    client = net.dial(version, socket.SOCK_DGRAM, port, source_port)
    client.send(bytes(10))
    origin.sendto(bytes(20), origin.recvfrom(100)[1])
    assert client.recv(100) == bytes(20)
    return key(version, CLIENT[version], ORIGIN[version], source_port, port)


def make_tcp(net, version, port, source_port=5000):
    net.serve(version, socket.SOCK_STREAM, port)
    net.dial(version, socket.SOCK_STREAM, port, source_port)
    return key(version, CLIENT[version], ORIGIN[version], source_port, port)


def ping(net, version):
    """One echo that is answered; its identifier is the socket's port."""
    client = net.socket(net.client, version, socket.SOCK_DGRAM, ECHO[version])
    client.connect((ORIGIN[version], 0))
    client.send(bytes((8 if version == 4 else 128, *(0,) * 15)))
    client.recv(100)
    return key(version, CLIENT[version], ORIGIN[version], client.getsockname()[1])


@FAMILIES
def test_entries_are_found_by_what_stands_in_packets(net, table, zone, version):
    udp, tcp, echo = make_udp(net, version, 53), make_tcp(net, version, 80), ping(net, version)
    head = 28 if version == 4 else 48
    found = table.get([(UDP, udp, zone), (TCP, tcp, zone), (ECHO[version], echo, zone)])
    assert [each.original for each in found] == [udp, tcp, echo]
    assert found[0][:4] == (UDP, udp, key(version, ORIGIN[version], CLIENT[version], 53, 5000), zone)
    assert found[0][7:] == (1, head + 10, 1, head + 20, None)
    assert found[1][:4] == (TCP, tcp, key(version, ORIGIN[version], CLIENT[version], 80, 5000), zone)
    assert found[1].tcp_state == 3
    assert found[1].timeout_s > 3600
    assert found[2][:4] == (ECHO[version], echo, key(version, ORIGIN[version], CLIENT[version], *_id(echo)), zone)
    assert {each.mark for each in found} == {MARK}
    assert sorted(each[:6] for each in table.dump()) == sorted(each[:6] for each in found)  # a second may pass


def _id(echo):
    return [int.from_bytes(echo[-2:], "big")]


@FAMILIES
def test_other_zones_and_keys_of_replies_find_nothing(net, table, zone, version):
    udp = make_udp(net, version, 53)
    reply = key(version, ORIGIN[version], CLIENT[version], 53, 5000)
    wanted = [(UDP, udp, zone + 1), (UDP, reply, zone), (UDP, reply, 7), (TCP, udp, zone), (UDP, udp, zone)]
    assert [each is not None for each in table.get(wanted)] == [False, False, False, False, True]
    assert table.delete([wanted[0], (UDP, reply, 7), wanted[3]]) == 0
    assert table.get(wanted)[-1] is not None


def test_what_is_deleted_is_counted_and_what_is_gone_is_no_error(net, table, zone):
    make_udp(net, 4, 53)
    client = net.dial(4, socket.SOCK_DGRAM, 54, 6000)
    wanted = []
    for port in range(1000, 1000 + 2 * conntrack.BATCH + 3):  # more than one send
        client.sendto(b"x", (ORIGIN[4], port))
        wanted.append((UDP, key(4, CLIENT[4], ORIGIN[4], 6000, port), zone))
    until(lambda: None not in table.get(wanted))
    gone = (UDP, key(4, CLIENT[4], ORIGIN[4], 1, 2), zone)
    assert table.delete([gone, *wanted[:150], gone]) == 150
    taken = table.get_and_delete(wanted)
    assert [entry and entry.original for entry in taken] == [None] * 150 + [each[1] for each in wanted[150:]]
    assert table.get_and_delete(wanted) == [None] * len(wanted)
    assert [entry.original for entry in table.dump()] == [key(4, CLIENT[4], ORIGIN[4], 5000, 53)]


def test_marks_choose_what_is_listed_and_flushed(net, table):
    wanted = {make_udp(net, 4, 53), make_udp(net, 6, 53)}
    net.load("flush chain inet t middle")
    unmarked = make_udp(net, 4, 54, 5001)
    assert {each.original for each in table.dump()} == {*wanted, unmarked}
    assert {each.original for each in table.dump(MARK)} == wanted
    assert {each.original for each in table.dump(0x07, 0xFF)} == wanted
    assert list(table.dump(0x08, 0xFF)) == []
    table.flush(0x08, 0xFF)
    assert len(list(table.dump())) == 3
    table.flush(0x07, 0xFF)
    assert [each.original for each in table.dump()] == [unmarked]


def test_a_dump_may_be_left_and_the_table_asked_meanwhile(net, table, zone):
    client = net.dial(4, socket.SOCK_DGRAM, 54, 6000)
    for port in range(1000, 1600):
        client.sendto(b"x", (ORIGIN[4], port))
    until(lambda: len(list(table.dump())) == 600)
    listing = table.dump()
    entry = next(listing)
    assert table.delete([(UDP, entry.original, zone)]) == 1
    listing.close()
    assert len(list(table.dump())) == 599


@FAMILIES
def test_events_tell_beginnings_and_ends_with_counters(net, table, zone, version):
    events = net.router.run(ConntrackEvents, (conntrack.NEW, conntrack.UPDATE, conntrack.DESTROY))
    udp = make_udp(net, version, 53)
    [entry] = table.get_and_delete([(UDP, udp, zone)])
    told = []
    until(lambda: told.extend(events.read()) or any(name == "destroy" for name, _ in told))
    events.close()
    assert [name for name, _ in told] == ["new", "update", "destroy"]
    assert {(each.original, each.zone) for _, each in told} == {(udp, zone)}
    assert told[-1][1][7:11] == entry[7:11] != (0, 0, 0, 0)


def test_events_that_nobody_reads_are_known_to_be_lost(net, table, zone):
    events = net.router.run(ConntrackEvents, (conntrack.NEW,), 4096)
    client = net.dial(4, socket.SOCK_DGRAM, 54, 6000)
    for port in range(1000, 1200):
        client.sendto(b"x", (ORIGIN[4], port))
    until(lambda: len(list(table.dump())) == 200)
    assert 0 < len(events.read(1000)) < 200
    assert events.lost > 0
    lost, last = events.lost, make_udp(net, 4, 53)
    assert [entry.original for _, entry in events.read(1000)] == [last]
    assert events.lost == lost
    events.close()


@FAMILIES
@pytest.mark.parametrize("kind", [socket.SOCK_DGRAM, socket.SOCK_STREAM], ids=["udp", "tcp"])
def test_an_entry_made_by_hand_translates_both_ways(net, table, zone, version, kind):
    protocol = UDP if kind == socket.SOCK_DGRAM else TCP
    near, far, public = CLIENT[version], ORIGIN[version], PUBLIC[version]
    original, reply = key(version, near, far, 5000, 90), key(version, far, public, 90, 7777)
    net.origin.run(_send_to_router, public, version)
    table.create(protocol, original, reply, zone, 5, 60)
    [made] = table.get([(protocol, original, zone)])
    assert made[:5] == (protocol, original, reply, zone, 5)
    with pytest.raises(OSError, match="conntrack") as refused:
        table.create(protocol, original, reply, zone)
    assert refused.value.errno == errno.EEXIST
    origin = net.serve(version, kind, 90)
    client = net.dial(version, kind, 90, 5000)
    if kind == socket.SOCK_STREAM:
        origin = origin.accept()[0]
        net._sockets.append(origin)
        assert origin.getpeername()[:2] == (public, 7777)
        client.send(b"question")
        assert origin.recv(100) == b"question"
        origin.send(b"answer")
    else:
        client.send(b"question")
        assert origin.recvfrom(100)[1][:2] == (public, 7777)
        origin.sendto(b"answer", (public, 7777))
    assert client.recv(100) == b"answer"
    [used] = table.get([(protocol, original, zone)])
    assert used.reply == reply
    assert used.reply_packets > 0


def _send_to_router(public, version):
    prefix = f"{public}/{32 if version == 4 else 128}"
    subprocess.run(["ip", "route", "add", prefix, "via", {4: "10.2.0.1", 6: "fd02::1"}[version]], check=True)


def test_a_destination_is_translated_as_well(net, table, zone):
    """The client asks for an address that is nobody's, and the origin answers."""
    original, reply = key(4, CLIENT[4], "10.2.0.77", 5000, 90), key(4, ORIGIN[4], CLIENT[4], 91, 5000)
    table.create(UDP, original, reply, zone)
    origin = net.serve(4, socket.SOCK_DGRAM, 91)
    client = net.socket(net.client, 4, socket.SOCK_DGRAM)
    client.bind((CLIENT[4], 5000))
    client.connect(("10.2.0.77", 90))
    client.send(b"question")
    origin.sendto(b"answer", origin.recvfrom(100)[1])
    assert client.recv(100) == b"answer"


@pytest.mark.parametrize("protocol", [50, 47])
def test_protocols_without_ports_are_their_addresses(net, table, zone, protocol):
    client = net.socket(net.client, 4, socket.SOCK_RAW, protocol)
    client.sendto(bytes(12), (ORIGIN[4], 0))
    wanted = key(4, CLIENT[4], ORIGIN[4])
    entry = until(lambda: next((each for each in table.dump() if each.protocol == protocol), None))
    assert (entry.original, entry.reply, entry.zone) == (wanted, key(4, ORIGIN[4], CLIENT[4]), zone)
    [found] = table.get([(protocol, wanted, zone)])
    assert found[:4] == entry[:4]


def test_sctp_is_known_by_its_ports(net, table, zone):
    client = net.socket(net.client, 4, socket.SOCK_RAW, 132)
    client.sendto(_init(), (ORIGIN[4], 0))
    entry = until(lambda: next((each for each in table.dump() if each.protocol == 132), None))
    [found] = table.get([(132, entry.original, zone)])
    assert found[:4] == entry[:4]
    assert (entry.original[:8], len(entry.original)) == (key(4, CLIENT[4], ORIGIN[4]), 12)


def _init():
    """An SCTP INIT (RFC 9260 3.3.2), with its checksum (CRC-32c)."""
    raw = bytes.fromhex("1388 1389 00000000 00000000 01000014 00000001 00010000 00010001 00000001")
    crc = 0xFFFF_FFFF
    for byte in raw:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F6_3B78 if crc & 1 else 0)
    return raw[:8] + (crc ^ 0xFFFF_FFFF).to_bytes(4, "little") + raw[12:]


def test_without_rights_the_table_says_so(net):
    script = (
        "from proxy.kernel.conntrack import Conntrack\n"
        "for ask in (lambda table: table.get([(17, bytes(12), 0)] * 3), lambda table: table.flush(1),\n"
        "            lambda table: list(table.dump())):\n"
        "    try: ask(Conntrack())\n"
        "    except PermissionError as error: print(error)\n"
    )
    command = ["unshare", "--user", "--map-root-user", sys.executable, "-c", script]
    run = net.router.run(subprocess.run, command, capture_output=True, text=True)
    assert run.stdout.splitlines() == ["[Errno 1] conntrack: Operation not permitted"] * 3, run.stderr


class Pretender:
    """A socket pair: what a kernel might answer is put in by hand."""

    def __init__(self):
        self.near, self.kernel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.near.setblocking(False)
        self.table = Conntrack((self.near, self.near))

    def close(self):
        self.near.close()
        self.kernel.close()


@pytest.mark.parametrize("answer", [b"x", bytes(16), b"\xff" * 40, message(256, 0, 0, b"\x02\0\0\0")[:-1]])
def test_malformed_answers_are_no_answers(answer):
    pretender = Pretender()
    try:
        pretender.kernel.send(answer)
        with pytest.raises(OSError, match="conntrack") as refused:
            pretender.table.get([(17, bytes(12), 0)])
        assert refused.value.errno == errno.ENOBUFS
    finally:
        pretender.close()


def test_an_entry_that_is_malformed_is_left_out():
    pretender = Pretender()
    try:
        pretender.kernel.send(message(256, 0, 0, b"\x02\0\0\0") + message(3, 0, 0, bytes(4)))
        assert list(pretender.table.dump()) == []
    finally:
        pretender.close()

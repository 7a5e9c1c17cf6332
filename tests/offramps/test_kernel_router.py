"""What a plain Linux router with masquerade does, the kernel off-ramp does: the same input, the same results.

Each behaviour is one function, called with a router and with a proxy; the test compares what they say. What must come
out is asserted as well where it is known, so that two wrong answers do not agree.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import ftplib
import io
import itertools
import re
import select
import socket
import struct
import threading
import time
from pathlib import Path

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6, IPv6ExtHdrDestOpt, PadN
from scapy.layers.sctp import SCTP, SCTPChunkInit, SCTPChunkInitAck
from scapy.packet import Raw

from proxy.kernel import facts
from tests.netns import needs_root
from tests.offramps.kernel_scene import (
    CLIENT,
    EDGE,
    FAMILIES,
    KINDS,
    ORIGIN,
    SECOND,
    SILENT,
    SMALL,
    SMALL_MTU,
    UNREACHABLE,
    ask,
    echo,
    needs,
    nft,
    read_all,
    reset,
    scene,
    unsent,
)
from tests.packets import network, rfc1071
from tests.running import until

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_root]
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
SIZE = 1_000_000
EF = 46 << 2
RECEIVE_ERRORS = {4: (socket.IPPROTO_IP, 11), 6: (socket.IPPROTO_IPV6, 25)}  # IP_RECVERR: also those that may pass
MUTE = """
table inet mute {
  chain in { type filter hook input priority 0; tcp dport 27000-27999 drop; }
}
"""
FILTERING = """
table inet filtering {
  chain in { type filter hook input priority 0; th dport 8083 drop; }
}
"""


@pytest.fixture(scope="module")
def plain():
    with scene("router") as made:
        yield made


@pytest.fixture(scope="module", params=KINDS)
def proxied(request):
    with scene(request.param) as made:
        yield made


@pytest.fixture
def router(plain):
    yield plain
    plain.tidy()


@pytest.fixture
def stage(proxied):
    yield proxied
    proxied.tidy()


def all_then_reset(net, version):
    client, origin = net.pair(version)
    sending = threading.Thread(target=origin.sendall, args=(b"x" * SIZE,))
    sending.start()
    result = []
    reading = threading.Thread(target=lambda: result.append(read_all(client)))
    reading.start()
    sending.join()
    until(lambda: not unsent(origin))
    reset(origin)
    reading.join()
    return result[0]


@VERSIONS
def test_every_byte_before_a_reset_arrives_and_then_the_reset(router, stage, version):
    expected = all_then_reset(router, version)
    assert expected == (SIZE, "ConnectionResetError")
    assert all_then_reset(stage, version) == expected


def refuse_body(net, version):
    """An origin that says 413 and closes, with a body unread."""
    client, origin = net.pair(version)
    client.sendall(b"POST / HTTP/1.1\r\nContent-Length: 9000000\r\n\r\n" + b"x" * 50_000)
    assert origin.recv(20) == b"POST / HTTP/1.1\r\nCon"
    until(lambda: not unsent(client))
    origin.sendall(b"HTTP/1.1 413 Content Too Large\r\n\r\n")
    until(lambda: not unsent(origin))
    origin.close()
    until(lambda: _has_failed(client))
    return read_all(client)


def _has_failed(sock):
    return struct.unpack_from("B", sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1))[0] == 7  # TCP_CLOSE


@VERSIONS
def test_a_413_before_the_body_was_read_arrives(router, stage, version):
    expected = refuse_body(router, version)
    assert expected == (34, "ConnectionResetError")
    assert refuse_body(stage, version) == expected


SIOCATMARK = 0x8905


def urgent(net, version):
    """What is read before the mark, the urgent byte, and what follows: both ways."""
    found = []
    for sender, receiver in (pair := net.pair(version), pair[::-1]):
        sender.sendall(b"before")
        sender.send(b"!", socket.MSG_OOB)
        sender.sendall(b"after")
        until(lambda receiver=receiver: _has_urgent(receiver))
        found.append((receiver.recv(100), _at_mark(receiver), receiver.recv(1, socket.MSG_OOB), receiver.recv(100)))
    return found


def _has_urgent(sock):
    return select.select([], [], [sock], 0.1)[2]


def _at_mark(sock):
    return struct.unpack("i", fcntl.ioctl(sock, SIOCATMARK, b"\0\0\0\0"))[0] == 1


@VERSIONS
def test_urgent_byte_keeps_its_place(router, stage, version):
    expected = urgent(router, version)
    assert expected == [(b"before", True, b"!", b"after")] * 2
    assert urgent(stage, version) == expected


def traffic_classes(net, version):
    """Class and TTL of what arrives on both sides: TCP from SYN to FIN, two datagrams, an echo."""
    at_origin, at_client = net.sniffer(net.origin, "o1"), net.sniffer(net.client, net.device)
    listener = net.listen(version)
    client = net.sock(net.client, version, socket.SOCK_STREAM)
    datagrams = net.sock(net.client, version, socket.SOCK_DGRAM)
    answering = net.listen(version, kind=socket.SOCK_DGRAM)
    for sock in (listener, client, datagrams, answering):
        if version == 4:
            sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, EF)
        else:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, EF)
    client.connect((ORIGIN[version], listener.getsockname()[1]))
    origin = net.accept(listener)
    for _ in range(3):
        client.sendall(b"question")
        assert origin.recv(100) == b"question"
        origin.sendall(b"answer")
        assert client.recv(100) == b"answer"
    client.close()
    assert origin.recv(1) == b""
    origin.close()
    for _ in range(3):
        assert ask_bare(datagrams, answering) == b"answer"
    net.run("ping", "-c", 1, "-W", 9, "-Q", EF, ORIGIN[version])
    ask(net.sock(net.client, version, socket.SOCK_DGRAM), echo(net, version))  # a canary
    found = set()
    for name, sniffer in (("origin", at_origin), ("client", at_client)):
        for packet in sniffer.arrived():
            layer = next((layer for layer in ("TCP", "UDP", "ICMP", "ICMPv6EchoRequest", "ICMPv6EchoReply")
                          if packet.haslayer(layer)), None)  # fmt: skip
            if layer is None or (layer == "UDP" and b"canary" in bytes(packet)):
                continue
            kind, ttl = (packet.tos, packet.ttl) if packet.version == 4 else (packet.tc, packet.hlim)
            is_syn = layer == "TCP" and packet[TCP].flags.S
            found.add((name, layer, bool(is_syn), kind & 0xFC, ttl))
    return found


def ask_bare(client, server):
    """One question and its answer, neither of them repeated."""
    client.sendto(b"question", server.getsockname())
    data, sender = server.recvfrom(100)
    assert data == b"question"
    server.sendto(b"answer", sender)
    return client.recv(100)


@VERSIONS
def test_dscp_and_ttl_of_all_that_arrives(router, stage, version):
    expected = traffic_classes(router, version)
    assert {("origin", "TCP", True, EF, 63), ("client", "TCP", True, EF, 63), ("origin", "UDP", False, EF, 63),
            ("client", "UDP", False, EF, 63), ("client", "TCP", False, EF, 63)} <= expected  # fmt: skip
    assert traffic_classes(stage, version) == expected


def port_again(net, version):
    """One source port, for 40 connections that each end with RST, and at once begin again."""
    listener = net.listen(version)
    found = []
    for number in range(40):
        client = net.connect(version, listener.getsockname()[1], source_port=23_456)
        origin = net.accept(listener)
        client.sendall(bytes([number]))
        found.append(origin.recv(10))
        ends = (client, origin) if number % 2 else (origin, client)
        reset(ends[0])
        if number % 2:
            assert read_all(origin) == (0, "ConnectionResetError")
        else:
            assert read_all(client) == (0, "ConnectionResetError")
        ends[1].close()
    return found


@VERSIONS
def test_a_port_is_used_again_at_once_after_a_reset(router, stage, version):
    expected = port_again(router, version)
    assert expected == [bytes([number]) for number in range(40)]
    assert port_again(stage, version) == expected


DELAYED_S = 0.1  # 40 ms is the longest that Linux puts off an acknowledgement of what came alone
FLAGS = ("S", "A", "FA", "R", "SA", "PA")
ORDERS = [order for length in (1, 2, 3) for order in itertools.product(FLAGS, repeat=length)]


def every_order(net, version, listener_port):
    """What a client's segments in every order bring back: flags, and numbers relative to the first."""
    ports = {27_000 + place: order for place, order in enumerate(ORDERS)}
    raw, sniffer = Injector(net, version), net.sniffer(net.client, net.device)
    canary, server = net.sock(net.client, version, socket.SOCK_DGRAM), echo(net, version)
    answers: dict[int, set[tuple[str, int, int]]] = {port: set() for port in ports}
    initial: dict[int, int] = {}
    nft(net.client, MUTE)
    for step in range(3):
        for port, order in ports.items():
            if step < len(order):
                seq = 1000 + (step > 0) + sum(10 for flags in order[:step] if flags == "PA")
                fields = {"flags": order[step], "seq": seq, "ack": initial.get(port, 5000) + 1}
                segment = TCP(sport=port, dport=listener_port, window=8000, **fields)
                raw.send(network(version, CLIENT[version], ORIGIN[version]) / segment
                         / Raw(b"0123456789" if order[step] == "PA" else b""))  # fmt: skip
        deadline = time.monotonic() + DELAYED_S
        while time.monotonic() < deadline:  # an acknowledgement that its host puts off is an answer too
            ask(canary, server)
        for packet in sniffer.arrived(6):
            if (port := packet[TCP].dport) in ports:
                if packet[TCP].flags.S:
                    initial[port] = packet[TCP].seq
                base = initial.get(port)
                seq = packet[TCP].seq  # 0 without relation to anything where the segment had no number to answer with
                relative = seq if base is None or not seq else (seq - base) % 2**32
                answers[port].add((str(packet[TCP].flags), packet[TCP].ack, relative))
    nft(net.client, "delete table inet mute")
    return {" ".join(order): sorted(answers[port]) for port, order in ports.items()}


class Injector:
    """Packets as they stand, from the client on its way."""

    def __init__(self, net, version):
        family = {4: socket.AF_INET, 6: socket.AF_INET6}[version]
        self._sock = net.keep(net.client.run(socket.socket, family, socket.SOCK_RAW, socket.IPPROTO_RAW))
        self._version = version

    def send(self, packet):
        destination = packet.dst
        self._sock.sendto(bytes(packet), (destination, 0))


@VERSIONS
def test_segments_in_every_order_get_the_same_answers(router, stage, version):
    tables = []
    for net in (router, stage):
        tables.append(every_order(net, version, net.listen(version).getsockname()[1]))
    expected, found = tables
    assert [flags for flags, *_ in expected["S"]] == ["SA"]
    different = {order: (expected[order], found[order]) for order in expected if expected[order] != found[order]}
    assert not different


@pytest.fixture
def open_port(router, stage):
    """TCP 8081 and UDP 8082 answer at both origins, 8083 is filtered, 8084 is closed."""
    threads = []
    for net in (router, stage):
        nft(net.origin, FILTERING)
        for version in (4, 6):
            net.listen(version, 8081)
            server = net.listen(version, 8082, socket.SOCK_DGRAM)
            server.settimeout(0.2)
            stop = threading.Event()
            thread = threading.Thread(target=_answer_anything, args=(server, stop))
            thread.start()
            threads.append((thread, stop))
    yield
    for thread, stop in threads:
        stop.set()
        thread.join()
    for net in (router, stage):
        nft(net.origin, "delete table inet filtering")


def _answer_anything(server, stop):
    while not stop.is_set():
        with contextlib.suppress(TimeoutError):
            _, sender = server.recvfrom(2000)
            server.sendto(b"here", sender)


@needs("nmap")
@VERSIONS
@pytest.mark.parametrize("scan", ["-sS", "-sT", "-sU"])
def test_nmap_sees_the_same_ports(router, stage, open_port, version, scan):
    ports = "8082-8084" if scan == "-sU" else "8081,8083,8084"
    seen = []
    for net in (router, stage):
        six = ["-6"] if version == 6 else []
        out = net.run("nmap", *six, "-n", "-Pn", scan, "-p", ports, "--max-retries", 2, "--reason", "--send-ip",
                      ORIGIN[version])  # fmt: skip
        seen.append(re.findall(r"^(\d+)/(?:tcp|udp)\s+(\S+)\s+\S+\s+(\S+)(?: ttl (\d+))?", out, re.M))
    states = [state for _, state, *_ in seen[0]]
    assert states == (["open", "open|filtered", "closed"] if scan == "-sU" else ["open", "filtered", "closed"])
    assert seen[1] == seen[0]


@needs("traceroute")
@VERSIONS
@pytest.mark.parametrize("probe", [["-U"], ["-I"], ["-T", "-p", "8081"]], ids=["udp", "icmp", "tcp"])
def test_traceroute_counts_one_hop(router, stage, open_port, version, probe):
    seen = []
    for net in (router, stage):
        out = net.run("traceroute", f"-{version}", "-n", "-q", 1, "-m", 6, "-w", 5, *probe, ORIGIN[version])
        seen.append([line.split()[1] for line in out.splitlines()[1:]])
    assert len(seen[0]) == 2
    assert len(seen[1]) == 2
    assert seen[1][1] == seen[0][1] == ORIGIN[version]
    assert "*" not in seen[1]


@needs("tracepath")
@VERSIONS
def test_tracepath_counts_one_hop_and_finds_the_mtu(router, stage, version):
    for address, mtu in ((ORIGIN[version], 1500), (SMALL[version], SMALL_MTU)):
        lines = []
        for net in (router, stage):
            out = net.run("tracepath", f"-{version}", "-n", "-m", 6, address)
            lines.append(re.search(r"Resume: (.*)", out)[1].split("back")[0].strip())
        assert lines[0] == f"pmtu {mtu} hops 2"
        assert lines[1] == lines[0]


def path_mtu(net, version):
    """What ping is told of a packet too big for the link behind the edge; how far large transfers come."""
    net.run("ip", f"-{version}", "route", "flush", "cache")  # what earlier tests were told
    out = net.run("ping", f"-{version}", "-n", "-M", "do", "-s", 1400, "-c", 3, "-i", 0.2, "-W", 5, SMALL[version],
                  code=1)  # fmt: skip
    told = re.search(r"mtu[=: ]+(\d+)", out)
    listener = net.listen(version, address=SMALL[version])
    client = net.connect(version, listener.getsockname()[1], address=SMALL[version])
    origin = net.accept(listener)
    moved = []
    for sender, receiver in ((client, origin), (origin, client)):
        sending = threading.Thread(target=lambda sender=sender: (sender.sendall(b"x" * SIZE),
                                                                 sender.shutdown(socket.SHUT_WR)))  # fmt: skip
        sending.start()
        moved.append(read_all(receiver))
        sending.join()
    return told and int(told[1]), moved


@needs("ping")
@VERSIONS
def test_path_mtu_behind_the_edge_is_found(router, stage, version):
    expected = path_mtu(router, version)
    assert expected == (SMALL_MTU, [(SIZE, "end")] * 2)
    assert path_mtu(stage, version) == expected


def large_datagrams(net, version):
    """Datagrams of more than one size that a link takes: of new flows and of old ones, both ways."""
    client, address = net.sock(net.client, version, socket.SOCK_DGRAM), echo(net, version, SMALL[version])
    found = []
    for size in (6000, 1400, 6000, 1400, 2000):
        sock = net.sock(net.client, version, socket.SOCK_DGRAM) if size == 2000 else client
        found.append(len(ask(sock, address, b"x" * size)))
    return found


@VERSIONS
def test_datagrams_in_fragments_come_whole(router, stage, version):
    expected = large_datagrams(router, version)
    assert expected == [6000, 1400, 6000, 1400, 2000]
    assert large_datagrams(stage, version) == expected


def errors(net, version):
    """Type, code, who says it, and what is quoted, of ICMP errors about a closed port and an unreachable host."""
    sniffer, number = net.sniffer(net.client, net.device), {4: 1, 6: 58}[version]
    found, names = [], []
    for place, (address, port) in enumerate(((ORIGIN, 7), (UNREACHABLE, 8))):
        client = net.sock(net.client, version, socket.SOCK_DGRAM)
        client.setsockopt(*RECEIVE_ERRORS[version], 1)
        client.bind((CLIENT[version], 24_000 + place))
        client.connect((address[version], port))
        client.send(b"anybody?")
        names.append(_error_of(client.recv, 100))
        outer = until(lambda: next((data for is_in, data in sniffer.read() if is_in and _is_about(data, number)), None))
        l4 = 20 if version == 4 else 40
        quoted = outer[l4 + 8 :]
        fields = (slice(12, 20) if version == 4 else slice(8, 40)), slice(l4, l4 + 4), slice(l4 + 8, l4 + 16)
        found.append((outer[fields[0]].hex(), outer[l4 : l4 + 2], [quoted[field] for field in fields],
                      _is_sound(outer)))  # fmt: skip
    address = UNREACHABLE[version], 9
    return found, names, _error_of(net.sock(net.client, version, socket.SOCK_STREAM).connect, address)


def _error_of(function, argument):
    """Its number; None where it succeeds."""
    try:
        function(argument)
    except OSError as error:
        return error.errno
    return None


def _is_about(data, number):
    """Whether this is an error of ICMP."""
    l4, at = (20, 9) if data[0] >> 4 == 4 else (40, 6)
    return data[at] == number and data[l4] in ((3,) if l4 == 20 else (1,))


def _is_sound(data):
    """Whether the checksum of the error is right."""
    if data[0] >> 4 == 4:
        return rfc1071(data[20:]) == 0
    pseudo = data[8:40] + (len(data) - 40).to_bytes(4, "big") + b"\0\0\0\x3a"
    return rfc1071(pseudo + data[40:]) == 0


@VERSIONS
def test_icmp_errors_reach_the_client_with_its_own_packet(router, stage, version):
    expected = errors(router, version)
    assert [socket.inet_ntop(FAMILIES[version], each[2][0][: len(each[2][0]) // 2]) for each in expected[0]] == [
        CLIENT[version]
    ] * 2
    assert expected[1:] == ([errno.ECONNREFUSED, errno.EHOSTUNREACH], errno.EHOSTUNREACH)
    assert [each[2][2] for each in expected[0]] == [b"anybody?"] * 2
    assert errors(stage, version) == expected


def other_protocols(net, version):
    """SCTP's handshake, GRE and ESP by raw sockets: what arrives at the origin, and what comes back."""
    found = []
    sctp = SCTP(sport=5000, dport=6000, tag=0) / SCTPChunkInit(init_tag=0x1234, a_rwnd=9000, n_out_streams=1,
                                                               n_in_streams=1, init_tsn=7)  # fmt: skip
    answer = SCTP(sport=6000, dport=5000, tag=0x1234) / SCTPChunkInitAck(
        init_tag=0x4321, a_rwnd=9000, n_out_streams=1, n_in_streams=1, init_tsn=9, params=[]
    )
    gre = bytes.fromhex("00000800") + bytes(IP(src="192.0.2.1", dst="192.0.2.2") / UDP() / b"inner")
    esp = bytes.fromhex("0000abcd00000001") + bytes(range(64))
    for protocol, question, reply in ((132, bytes(sctp), bytes(answer)), (47, gre, gre), (50, esp, esp)):
        client = net.sock(net.client, version, socket.SOCK_RAW, protocol)
        origin = net.sock(net.origin, version, socket.SOCK_RAW, protocol)
        origin.bind((ORIGIN[version], 0))
        client.settimeout(5)
        origin.settimeout(5)
        client.sendto(question, (ORIGIN[version], 0))
        arrived, sender = origin.recvfrom(2000)
        origin.sendto(reply, (sender[0], 0))
        back = client.recv(2000)
        skipped = 20 if version == 4 else 0
        found.append((protocol, sender[0], arrived[skipped:] == question, back[skipped:] == reply))
    return found


@VERSIONS
def test_sctp_gre_and_esp_pass(router, stage, version):
    expected = other_protocols(router, version)
    assert expected == [(protocol, EDGE[version], True, True) for protocol in (132, 47, 50)]
    assert other_protocols(stage, version) == expected
    until(lambda: {"sctp", "gre", "esp"} <= {record.protocol for record in stage.proxy.live()})


VSFTPD = """
listen=NO
listen_ipv6=YES
listen_port=21
background=NO
anonymous_enable=YES
local_enable=NO
anon_root={directory}/ftp
port_enable=YES
pasv_enable=YES
connect_from_port_20=YES
seccomp_sandbox=NO
secure_chroot_dir={directory}/empty
ftp_username=bin
"""


@needs("vsftpd")
@VERSIONS
@pytest.mark.parametrize("mode", ["active", "passive"])
def test_ftp(router, stage, version, mode):
    """Active mode takes a helper in the kernel, which is asked of ours; a plain router needs it named by its rules."""
    if mode == "active" and "ftp" not in stage.edge.run(facts.helpers):
        pytest.skip("this kernel has no helper for FTP")
    directory = Path(stage.directory)
    if not (directory / "vsftpd.conf").exists():
        (directory / "ftp").mkdir()
        (directory / "empty").mkdir()
        (directory / "ftp" / "file").write_bytes(b"contents")
        (directory / "vsftpd.conf").write_text(VSFTPD.format(directory=directory))
        stage.serve(21, "vsftpd", directory / "vsftpd.conf")

    def fetch():
        ftp, copy = ftplib.FTP(timeout=20), io.BytesIO()
        with ftp:
            ftp.connect(ORIGIN[version], 21)
            ftp.login()
            ftp.set_pasv(mode == "passive")
            ftp.retrbinary("RETR file", copy.write)
        return copy.getvalue()

    assert stage.client.run(fetch) == b"contents"


def mapping(net, version):
    """The addresses and ports that three destinations see of one client's socket."""
    client = net.sock(net.client, version, socket.SOCK_DGRAM)
    client.bind((CLIENT[version], 26_000))
    seen = []
    for address in (ORIGIN[version], ORIGIN[version], SECOND[version]):
        server = net.listen(version, kind=socket.SOCK_DGRAM, address=address)
        client.sendto(b"who am I?", server.getsockname())
        seen.append(server.recvfrom(100)[1][:2])
    return seen


@VERSIONS
def test_one_socket_has_one_mapping(router, stage, version):
    expected = mapping(router, version)
    assert expected == [(EDGE[version], 26_000)] * 3
    assert mapping(stage, version) == expected


@VERSIONS
def test_silence_is_silence_and_a_later_answer_comes(router, stage, version):
    """A SYN that nobody answers, between two canaries, brings nothing."""
    found = []
    for net in (router, stage):
        sniffer = net.sniffer(net.client, net.device)
        server, canary = echo(net, version), net.sock(net.client, version, socket.SOCK_DGRAM)
        ask(canary, server)
        sock = net.sock(net.client, version, socket.SOCK_STREAM)
        sock.setblocking(False)
        with contextlib.suppress(BlockingIOError):
            sock.connect((SILENT[version], 80))
        ask(canary, server)
        ask(canary, server)
        found.append([packet for packet in sniffer.arrived() if SILENT[version] in (packet.src, packet.dst)])
        assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert found == [[], []]


def test_ipv6_header_options_pass(router, stage):
    """A destination option, which the kernel does not look at, is there when it arrives."""
    found = []
    for net in (router, stage):
        server, sniffer = net.listen(6, kind=socket.SOCK_DGRAM), net.sniffer(net.origin, "o1")
        port = server.getsockname()[1]
        packet = IPv6(src=CLIENT[6], dst=ORIGIN[6]) / IPv6ExtHdrDestOpt(options=[PadN(optdata=b"\0\0\0\0")])
        Injector(net, 6).send(packet / UDP(sport=25_000, dport=port) / Raw(b"behind it"))
        assert server.recv(100) == b"behind it"
        found.append(sniffer.until(lambda packet, port=port: UDP in packet and packet[UDP].dport == port).layers())
    assert found[0] == found[1]

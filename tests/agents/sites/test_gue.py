"""A site's end of GUE in user space: contexts, bad datagrams, runs of packets in one call, MTU."""

from __future__ import annotations

import shutil
import signal
import socket
import subprocess
from ipaddress import ip_interface

import pytest
from scapy.layers.inet import IP, UDP
from scapy.packet import Raw

from oxyctl.agents.sites.sockets import UDP_SEGMENT
from oxyctl.net.netlink import add_address, run, set_link
from proxy.wire import gue
from proxy.wire.gue import Context
from tests.agents.sites.world import (
    CLIENT,
    CONTEXT,
    EDGE,
    GUE_BACK,
    SITE,
    eventually,
    inner,
    text_of,
)

PORT = 6080
TOKEN = Context(7, 1, b"secret")


def at(address, port=PORT):
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def site(world, outer=4, **options):
    sides = {"local": at(SITE[outer]), "remote": at(EDGE[outer]), "context": CONTEXT} | options
    return world.start(world.entry(device="tun0", gue=sides))


@pytest.mark.parametrize("kind", ["context", "bare", "version 1"])
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("version", [4, 6])
def test_packets_cross_both_ways(world, version, outer, kind):
    options = {"context": {}, "bare": {"context": None}, "version 1": {"context": None, "version": 1}}[kind]
    host, proxy = world.host(version), world.proxy(at(EDGE[outer]))
    agents = site(world, outer, **options)
    back = {"context": None, "bare": gue.header(version), "version 1": b""}[kind]
    for number in range(3):
        host.sendto(b"up %d" % number, (CLIENT[version], 7))
        header, packet = proxy.receive()
        assert (header.version, header.inner) == (1 if kind == "version 1" else 0, version)
        assert header.context == (TOKEN if kind == "context" else None)
        assert text_of(packet) == f"up {number}"
        proxy.send(inner(version, f"down {number}"), back, to=at(SITE[outer]))
        assert host.recv(100) == b"down %d" % number
    address, ports = proxy.senders[0][0], {sender[1] for sender in proxy.senders}
    assert address == SITE[outer]
    assert len(ports) == 1  # one flow, one source port
    assert ports.pop() in gue.ENTROPY_PORTS
    status = agents.tunnel()
    assert (status["kind"], status["drops"]) == ("device+gue", {})
    assert status["sent"]["packets"] == status["received"]["packets"] == 3
    assert status["sent"]["bytes"] == 3 * len(inner(version, "up 0"))


def test_flows_are_spread_over_source_ports(world):
    proxy = world.proxy(at(EDGE[4]))
    site(world)
    for port in range(40):
        world.host(4, 5000 + port).sendto(b"x", (CLIENT[4], 7))
        proxy.receive()
    assert 4 <= len({sender[1] for sender in proxy.senders}) <= 8


GOOD = GUE_BACK[4]
BAD = {
    "gue_version": b"\xc0\x04\0\0" + inner(4, "bad"),
    "gue_control": b"\x20\x04\0\0" + inner(4, "bad"),
    "gue_flags": b"\x00\x04\0\1" + inner(4, "bad"),
    "gue_no_next_header": b"\x00\x3b\0\0" + inner(4, "bad"),
    "gue_protocol": bytes(60),
    "gue_inner": gue.header(6, TOKEN) + inner(4, "bad"),
    "gue_v1_inner": b"\x50" + inner(4, "bad")[1:],
    "gue_truncated": GOOD[:-1],
    "context_truncated": b"\x02\x04\0\0OX\x01\x01\x09\0\0\0" + inner(4, "bad"),
    "context_repeated": b"\x02\x04\0\0OX\x01\x09\0\x09\0\0" + inner(4, "bad"),
    "context_version": b"\x01\x04\0\0OX\x02\0" + inner(4, "bad"),
    "context_bad_field": b"\x02\x04\0\0OX\x01\x01\x01\x07\0\0" + inner(4, "bad"),
    "context_missing": gue.header(4) + inner(4, "bad"),
    "foreign_tenant": gue.header(4, Context(8, 1, b"secret")) + inner(4, "bad"),
    "bad_token": gue.header(4, Context(7, 1, b"guess")) + inner(4, "bad"),
    "truncated": GOOD + inner(4, "bad")[:19],
    "tunnel_loop": GOOD + bytes(IP(src=CLIENT[4], dst=SITE[4]) / UDP(dport=PORT) / Raw(GOOD)),
}


@pytest.mark.parametrize("reason", BAD)
def test_each_bad_datagram_is_dropped_and_counted_with_its_reason(world, reason):
    host, proxy = world.host(4), world.proxy(at(EDGE[4]))
    agents = site(world)
    for packet, header in ((inner(4, "canary 1"), GOOD), (BAD[reason], b""), (inner(4, "canary 2"), GOOD)):
        proxy.sock.sendto(header + packet, (SITE[4], PORT))
    assert [host.recv(100), host.recv(100)] == [b"canary 1", b"canary 2"]
    assert agents.drops() == {reason: 1}
    assert agents.stray() == []


def test_an_empty_datagram_is_counted(world):
    host, proxy = world.host(4), world.proxy(at(EDGE[4]))
    agents = site(world)
    proxy.sock.sendto(b"", (SITE[4], PORT))
    proxy.send(inner(4, "canary"), to=at(SITE[4]))
    assert host.recv(100) == b"canary"
    assert agents.drops() == {"gue_truncated": 1}


def test_a_foreign_peer_with_the_right_context_is_refused(world):
    host, proxy = world.host(4), world.proxy(at(EDGE[4]))
    world.edge.run(_add_address, "10.50.0.66/24")
    foreign = world.proxy("10.50.0.66:6080")
    agents = site(world)
    foreign.send(inner(4, "bad"), to=at(SITE[4]))
    proxy.send(inner(4, "canary"), to=at(SITE[4]))
    assert host.recv(100) == b"canary"
    assert agents.stray() == [{"unknown_peer": 1}]


def test_a_burst_of_one_flow_leaves_in_one_call_and_arrives_in_order(world):
    host, proxy = world.host(4), world.proxy(at(EDGE[4]))
    agents = site(world)
    agents.process.send_signal(signal.SIGSTOP)
    for number in range(40):
        host.sendto(b"%04d" % number + bytes(996), (CLIENT[4], 7))
    host.sendto(b"last", (CLIENT[4], 7))  # a shorter one may end a run
    agents.process.send_signal(signal.SIGCONT)
    texts = [text_of(proxy.receive()[1])[:4] for _ in range(41)]
    assert texts == [f"{number:04d}" for number in range(40)] + ["last"]
    assert proxy.sizes[0] == 41
    assert agents.tunnel()["sent"] == {"packets": 41, "bytes": 40 * 1028 + 32}


def test_flows_sizes_and_traffic_classes_part_runs_and_nothing_is_lost(world):
    hosts, proxy = [world.host(4, 5000 + port) for port in range(6)], world.proxy(at(EDGE[4]))
    agents = site(world)
    agents.process.send_signal(signal.SIGSTOP)
    sent = []
    for number in range(60):
        host = hosts[number % 6]
        host.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0x28 if number % 4 == 0 else 0)
        text = f"{number:04d}" + "." * (17 * number % 50)
        host.sendto(text.encode(), (CLIENT[4], 7))
        sent.append((5000 + number % 6, text, 0x28 if number % 4 == 0 else 0))
    agents.process.send_signal(signal.SIGCONT)
    packets = [proxy.receive()[1] for _ in sent]
    arrived = [(int.from_bytes(packet[20:22], "big"), text_of(packet), packet[1]) for packet in packets]
    assert sorted(arrived) == sorted(sent)
    for port in range(5000, 5006):
        assert [each for each in arrived if each[0] == port] == [each for each in sent if each[0] == port]


def test_datagrams_that_arrive_as_one_are_taken_apart(world):
    host, proxy = world.host(4), world.proxy(at(EDGE[4]))
    agents = site(world)
    datagrams = [GOOD + inner(4, f"{number:04d}") for number in range(30)] + [GOOD + inner(4, "end")]
    segment = [(socket.IPPROTO_UDP, UDP_SEGMENT, len(datagrams[0]).to_bytes(2, "little"))]
    proxy.sock.sendmsg([b"".join(datagrams)], segment, 0, (SITE[4], PORT))
    assert [host.recv(100) for _ in datagrams] == [b"%04d" % number for number in range(30)] + [b"end"]
    assert agents.tunnel()["received"]["packets"] == 31


def test_congestion_marks_cross_the_tunnel(world):
    host, proxy = world.host(4), world.proxy(at(EDGE[4]))
    agents = site(world)
    host.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    for mark, outer in ((2, 3), (0, 3), (0xB8, 0)):
        proxy.sock.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, outer)
        proxy.send(inner(4, f"{mark}", tos=mark), to=at(SITE[4]))
    arrived = [host.recvmsg(100, 100)[:2] for _ in range(2)]
    assert [(data, ancillary[0][2][0]) for data, ancillary in arrived] == [(b"2", 3), (b"184", 0xB8)]
    assert agents.drops() == {"ecn_not_capable": 1}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("outer", [4, 6])
def test_senders_learn_the_mtu_of_a_narrower_path_also_from_within_a_run(world, version, outer):
    for namespace, index in ((world.edge, 10), (world.site, 12)):
        namespace.run(lambda index=index: run([set_link(index, mtu=1400)]))
    host, proxy = world.host(version), world.proxy(at(EDGE[outer]))
    agents = site(world, outer)
    expected = 1400 - (28 if outer == 4 else 48) - len(GUE_BACK[version])
    level, discover, mtu = (socket.IPPROTO_IP, 10, 14) if version == 4 else (socket.IPPROTO_IPV6, 23, 24)
    host.setsockopt(level, discover, 2)  # IP_PMTUDISC_DO
    host.connect((CLIENT[version], 7))
    overhead = 28 if version == 4 else 48
    agents.process.send_signal(signal.SIGSTOP)
    for _ in range(3):
        host.send(bytes(1450 - overhead))
    agents.process.send_signal(signal.SIGCONT)
    assert eventually(lambda: (now := host.getsockopt(level, mtu)) < 1450 and now, "a smaller MTU") == expected
    host.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
    host.send(b"=" * (expected - overhead))
    assert len(proxy.receive()[1]) == expected
    drops = agents.drops()
    assert drops.pop("too_big") == 3
    assert set(drops) <= {"rate_limited"}


def test_what_may_be_cut_into_pieces_crosses_a_narrower_path_in_pieces(world):
    for namespace, index in ((world.edge, 10), (world.site, 12)):
        namespace.run(lambda index=index: run([set_link(index, mtu=1400)]))
    host, proxy = world.host(4), world.proxy(at(EDGE[4]))
    agents = site(world)
    host.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_PMTUDISC_DONT
    agents.process.send_signal(signal.SIGSTOP)
    for number in range(3):
        host.sendto(b"%d" % number + bytes(1439), (CLIENT[4], 7))
    agents.process.send_signal(signal.SIGCONT)
    assert [text_of(proxy.receive()[1])[0] for _ in range(3)] == ["0", "1", "2"]
    assert agents.drops() == {}


@pytest.mark.skipif(
    shutil.which("tshark") is None or shutil.which("tcpdump") is None, reason="needs tshark and tcpdump"
)
def test_tshark_finds_a_udp_datagram_with_the_packet_where_hlen_says(world, tmp_path):
    capture = tmp_path / "gue.pcap"
    command = ["tcpdump", "-i", "lan", "-U", "-w", str(capture), "-Z", "root", "udp"]
    tcpdump = world.edge.run(lambda: subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    with tcpdump:
        assert any("listening on" in line for line in iter(tcpdump.stderr.readline, ""))
        host, proxy = world.host(4), world.proxy(at(EDGE[4]))
        site(world)
        for _ in range(3):
            host.sendto(b"payload", (CLIENT[4], 7))
            proxy.receive()
        rows = eventually(lambda: len(found := _tshark(capture)) == 3 and found, "three packets in the capture")
        tcpdump.terminate()
    for _, destination_port, flags, payload, malformed in rows:
        assert (destination_port, malformed) == (str(PORT), "")
        assert flags in ("1", "True")  # DF
        raw = bytes.fromhex(payload.replace(":", ""))
        assert raw[: len(GOOD)] == GOOD
        assert IP(raw[len(GOOD) :])[UDP].payload.load == b"payload"


def _tshark(capture):
    fields = ["udp.srcport", "udp.dstport", "ip.flags.df", "udp.payload", "_ws.malformed"]
    command = ["tshark", "-r", str(capture), "-T", "fields", *(word for field in fields for word in ("-e", field))]
    command += ["--disable-protocol", "gue"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [tuple(line.split("\t")) for line in done.stdout.splitlines()]


def _add_address(text):
    run([add_address(10, ip_interface(text))])

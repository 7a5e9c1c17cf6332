"""A site's end of GRE in user space, against packets that scapy makes and reads."""

from __future__ import annotations

import errno
import shutil
import socket
import subprocess

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import GRE, GRE_PPTP, GRErouting
from scapy.packet import Raw

from oxyctl.net.netlink import run, set_link
from tests.agents.sites.world import CLIENT, EDGE, HOST, SITE, eventually, inner, text_of
from tests.packets import recomputed, rfc1071

PROTO = {4: 0x0800, 6: 0x86DD}
OPTIONS = {
    "bare": {},
    "key": {"key": 42},
    "checksum": {"checksum": True},
    "sequence": {"sequence": True},
    "all": {"key": 0, "checksum": True, "sequence": True},
}


def site(world, outer=4, **options):
    gre = {"local": SITE[outer], "remote": EDGE[outer]} | options
    return world.start(world.entry(device="tun0", gre=gre))


def wrapped(packet, version=4, **fields):
    """As scapy builds it."""
    if "key" in fields:
        fields["key_present"] = 1
    if "sequence_number" in fields:
        fields["seqnum_present"] = 1
    return bytes(GRE(proto=PROTO[version], **fields) / Raw(packet))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("outer", [4, 6])
@pytest.mark.parametrize("version", [4, 6])
def test_scapy_reads_what_it_sends_and_it_reads_what_scapy_sends(world, version, outer, options):
    host, peer = world.host(version), world.raw(outer)
    agents = site(world, outer, **options)
    for number in range(3):
        host.sendto(b"up %d" % number, (CLIENT[version], 7))
        header, payload = peer.receive()
        if outer == 4:
            assert header[6] & 0x40  # DF
        decoded = GRE(payload)
        assert decoded.proto == PROTO[version]
        assert (decoded.key_present, decoded.chksum_present, decoded.seqnum_present) == tuple(
            int(bool(options.get(name) or options.get(name) == 0)) if name == "key" else int(options.get(name, False))
            for name in ("key", "checksum", "sequence")
        )
        assert decoded.key == options.get("key")
        assert decoded.sequence_number == (number if "sequence" in options else None)
        if options.get("checksum"):
            assert rfc1071(payload) == 0
        assert decoded[UDP].payload.load == b"up %d" % number
        assert bytes(recomputed(bytes(decoded.payload))) == bytes(decoded.payload)
        fields = {"key": options["key"]} if "key" in options else {}
        fields |= {"sequence_number": number} if "sequence" in options else {}
        fields |= {"chksum_present": 1} if "checksum" in options else {}
        peer.send(wrapped(inner(version, f"down {number}"), version, **fields))
        assert host.recv(100) == b"down %d" % number
    status = agents.tunnel()
    assert (status["kind"], status["drops"], status["health"]) == ("device+gre", {}, None)
    assert status["sent"]["packets"] == status["received"]["packets"] == 3
    assert status["sent"]["bytes"] == 3 * len(inner(version, "up 0"))


BAD = {
    "gre_key": wrapped(inner(4, "bad"), key=43),
    "gre_checksum": wrapped(inner(4, "bad"), key=42, chksum_present=1, chksum=1),
    "gre_routing": bytes(GRE(routing_present=1) / GRErouting(routing_info=b"abcd") / Raw(inner(4, "bad"))),
    "gre_version": bytes(GRE_PPTP(call_id=42, seqnum_present=1, sequence_number=1) / Raw(inner(4, "bad"))),
    "gre_truncated": wrapped(b"", key=42)[:6],
    "gre_inner": wrapped(b"", key=42),
    "gre_protocol": bytes(GRE(proto=0x6558, key_present=1, key=42) / Raw(inner(4, "bad"))),
    "truncated": wrapped(inner(4, "bad")[:19], key=42),
    "tunnel_loop": wrapped(bytes(IP(src=CLIENT[4], dst=SITE[4], proto=47) / Raw(wrapped(inner(4, "bad")))), key=42),
}


@pytest.mark.parametrize("reason", BAD)
def test_each_bad_packet_is_dropped_and_counted_with_its_reason(world, reason):
    host, peer = world.host(4), world.raw(4)
    agents = site(world, key=42)
    for payload in (wrapped(inner(4, "canary 1"), key=42), BAD[reason], wrapped(inner(4, "canary 2"), key=42)):
        peer.send(payload)
    assert [host.recv(100), host.recv(100)] == [b"canary 1", b"canary 2"]
    assert agents.drops() == {reason: 1}
    assert agents.tunnel()["received"]["packets"] == 2


def test_the_other_end_of_the_tunnel_is_not_reached_by_way_of_it(world):
    host, peer = world.host(4), world.raw(4)
    agents = site(world, key=42)
    peer.send(wrapped(bytes(IP(src=CLIENT[4], dst=EDGE[4]) / UDP() / Raw(b"bad")), key=42))
    peer.send(wrapped(inner(4, "canary"), key=42))
    assert host.recv(100) == b"canary"
    assert agents.drops() == {"tunnel_loop": 1}


def test_a_packet_of_an_unknown_peer_belongs_to_no_tunnel(world):
    host, peer, agents = world.host(4), world.raw(4), site(world, key=42)
    foreign = world.socket(world.edge, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    outer = bytes(IP(src="10.50.0.99", dst=SITE[4], proto=47) / Raw(wrapped(inner(4, "bad"), key=42)))
    peer.send(wrapped(inner(4, "canary 1"), key=42))
    foreign.sendto(outer, (SITE[4], 0))
    peer.send(wrapped(inner(4, "canary 2"), key=42))
    assert [host.recv(100), host.recv(100)] == [b"canary 1", b"canary 2"]
    assert agents.stray() == [{"unknown_peer": 1}]
    assert agents.drops() == {}


def test_two_tunnels_to_one_peer_are_told_apart_by_key(world):
    gre = {"local": SITE[4], "remote": EDGE[4]}
    back = {"local": SITE[4], "remote": EDGE[4], "key": 2}
    proxy = world.proxy(f"{SITE[4]}:6080", world.site)
    gue = {"local": f"{SITE[4]}:20002", "remote": f"{SITE[4]}:6080", "context": {"tenant": 9}}
    host, peer = world.host(4), world.raw(4)
    agents = world.start(world.entry(device="tun0", gre=gre | {"key": 1}), world.entry(node="other", gre=back, gue=gue))
    peer.send(wrapped(inner(4, "one"), key=1))
    peer.send(wrapped(inner(4, "two"), key=2))
    peer.send(wrapped(inner(4, "three"), key=3))
    peer.send(wrapped(inner(4, "none")))
    peer.send(wrapped(inner(4, "four"), key=1))
    assert [host.recv(100), host.recv(100)] == [b"one", b"four"]
    header, packet = proxy.receive()
    assert (header.context.tenant, text_of(packet)) == (9, "two")
    assert agents.stray() == [{"gre_key": 2}]


def test_the_inner_packet_decides_nothing(world):
    """An inner source of another site does not move a packet into another tunnel."""
    host, peer, agents = world.host(4), world.raw(4), site(world, key=1)
    peer.send(wrapped(bytes(IP(src=HOST[4], dst=HOST[4]) / UDP(dport=5000) / Raw(b"martian")), key=2))
    peer.send(wrapped(inner(4, "canary"), key=1))
    assert host.recv(100) == b"canary"
    assert agents.drops() == {"gre_key": 1}


def test_out_of_order_is_dropped_when_sequence_numbers_are_used(world):
    host, peer, agents = world.host(4), world.raw(4), site(world, sequence=True)
    for number in (2**32 - 2, 2**32 - 1, 2**32 - 1, 2**32 - 5, 0, 2**32 - 1, 1):
        peer.send(wrapped(inner(4, str(number)), sequence_number=number))
    peer.send(wrapped(inner(4, "without")))
    peer.send(wrapped(inner(4, "last"), sequence_number=2))
    arrived = [host.recv(100).decode() for _ in range(5)]
    assert arrived == [str(2**32 - 2), str(2**32 - 1), "0", "1", "last"]
    assert agents.drops() == {"gre_sequence": 4}


@pytest.mark.parametrize("outer", [4, 6])
def test_congestion_marks_cross_the_tunnel_as_rfc_6040_says(world, outer):
    host, peer, agents = world.host(4), world.raw(outer), site(world, outer)
    host.setsockopt(socket.IPPROTO_IP, socket.IP_RECVTOS, 1)
    host.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, 0xB8 | 2)  # EF, ECT(0)
    host.sendto(b"up", (CLIENT[4], 7))
    header, payload = peer.receive()
    assert payload[4 + 1] == 0xBA
    if outer == 4:
        assert header[1] == 0xBA
    for mark, outer_mark in ((0xB8 | 2, 3), (0xB8 | 2, 0), (0xB8, 3), (0xB8, 1)):
        peer.send(wrapped(inner(4, f"{mark} {outer_mark}", tos=mark)), traffic_class=outer_mark)
    arrived = {}
    for _ in range(3):
        data, ancillary, _, _ = host.recvmsg(100, 100)
        arrived[data.decode()] = ancillary[0][2][0]
    assert arrived == {f"{0xBA} 3": 0xBB, f"{0xBA} 0": 0xBA, f"{0xB8} 1": 0xB8}
    assert agents.drops() == {"ecn_not_capable": 1}


@pytest.mark.parametrize("version", [4, 6])
def test_a_sender_learns_the_mtu_when_the_path_is_narrower_than_the_tunnel(world, version):
    world.edge.run(_set_mtu, 10, 1400)
    world.site.run(_set_mtu, 12, 1400)
    host, peer, agents = world.host(version), world.raw(4), site(world, key=1)
    level, option = (socket.IPPROTO_IP, 10) if version == 4 else (socket.IPPROTO_IPV6, 23)
    host.setsockopt(level, option, 2)  # IP_PMTUDISC_DO
    host.connect((CLIENT[version], 7))
    overhead = 28 if version == 4 else 48
    host.send(bytes(1450 - overhead))
    assert _path_mtu(host, version) == 1400 - 28
    assert host.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == errno.EMSGSIZE
    with pytest.raises(OSError, match="too long"):
        host.send(bytes(1450 - overhead))
    host.send(bytes(1372 - overhead))
    assert len(peer.receive()[1]) == 1372 + 8
    assert agents.drops() == {"too_big": 1}


def test_what_may_be_cut_into_pieces_crosses_a_narrower_path_in_pieces(world):
    world.edge.run(_set_mtu, 10, 1400)
    world.site.run(_set_mtu, 12, 1400)
    host, peer, agents = world.host(4), world.raw(4), site(world)
    host.setsockopt(socket.IPPROTO_IP, 10, 0)  # IP_PMTUDISC_DONT
    host.sendto(bytes(1440), (CLIENT[4], 7))
    header, payload = peer.receive()  # reassembled by the kernel
    assert len(payload) == 4 + 1468
    assert not header[6] & 0x40
    host.sendto(b"small", (CLIENT[4], 7))
    assert peer.receive()[0][6] & 0x40
    assert agents.drops() == {}


@pytest.mark.skipif(
    shutil.which("tshark") is None or shutil.which("tcpdump") is None, reason="needs tshark and tcpdump"
)
def test_tshark_decodes_every_packet_and_finds_none_malformed(world, tmp_path):
    capture = tmp_path / "gre.pcap"
    command = ["tcpdump", "-i", "lan", "-U", "-w", str(capture), "-Z", "root", "proto", "47"]
    tcpdump = world.edge.run(lambda: subprocess.Popen(command, stderr=subprocess.PIPE, text=True))
    with tcpdump:
        assert any("listening on" in line for line in iter(tcpdump.stderr.readline, ""))
        host, peer = world.host(6), world.raw(4)
        site(world, key=42, checksum=True)
        for number in range(3):
            host.sendto(b"%d" % number, (CLIENT[6], 7))
            peer.receive()
            peer.send(wrapped(inner(6, str(number)), 6, key=42, chksum_present=1))
            host.recv(100)
        eventually(lambda: len(_tshark(capture)) == 6, "six packets in the capture")
        tcpdump.terminate()
    rows = _tshark(capture)
    assert {row[:4] for row in rows} == {("0x0000002a", "0x86dd", "1", "")}
    assert {row[4] for row in rows} == {f"{SITE[4]}", f"{EDGE[4]}"}
    assert [row[5] for row in rows].count("7") == 3


def _tshark(capture):
    """Key, protocol, whether the checksum is good, malformed; source, inner port of destination."""
    fields = ["gre.key", "gre.proto", "gre.checksum.status", "_ws.malformed", "ip.src", "udp.dstport"]
    command = ["tshark", "-r", str(capture), "-T", "fields", *(word for field in fields for word in ("-e", field))]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    return [tuple(line.split("\t")) for line in done.stdout.splitlines()]


def _set_mtu(index, mtu):
    run([set_link(index, mtu=mtu)])


def _path_mtu(sock, version):
    """What the kernel has learned; the error may still be on its way."""
    level, option = (socket.IPPROTO_IP, 14) if version == 4 else (socket.IPPROTO_IPV6, 24)
    return eventually(lambda: (mtu := sock.getsockopt(level, option)) < 1450 and mtu, "a path MTU below the device's")

"""What rules log of real traffic: the ends of TCP connections, as each hook sees them, and what is lost."""

from __future__ import annotations

import select
import shutil
import socket
import subprocess
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.kernel import packetlog
from proxy.kernel.packetlog import PacketLog
from proxy.wire.netlink import attribute
from tests.bridge.routed import CLIENT, ORIGIN, key, routed, until
from tests.netns import BRIDGE as LAN
from tests.netns import FAR, needs_root

GROUPS = {"raw": 5, "mangle": 6, "behind_dstnat": 7, "forward": 8, "behind_srcnat": 9}
HOOKS = dict(zip(GROUPS, ("prerouting priority raw", "prerouting priority mangle", "prerouting priority 0",
                          "forward priority filter", "postrouting priority 200"), strict=True))  # fmt: skip
LOGGED = "tcp flags & (fin|rst) != 0 log group %d snaplen 128 queue-threshold 32;"
CHAINS = "".join(f"chain c{GROUPS[n]} {{ type filter hook {HOOKS[n]}; {LOGGED % GROUPS[n]} }}\n" for n in GROUPS)
NAT = """
chain marks { type filter hook prerouting priority -350; meta mark set 0x12345678; }
chain late { type nat hook postrouting priority srcnat; oifname lan masquerade; }
chain early { type nat hook prerouting priority dstnat; tcp dport 83 dnat to :80; }
"""
ALL = "flush ruleset\ntable inet t { chain c { type filter hook forward priority 0; log group 5 %s; }\n}\n"
ROUTER = {4: "10.2.0.1", 6: "fd02::1"}

in_namespaces = [needs_root, pytest.mark.skipif(shutil.which("nft") is None, reason="needs nft")]


def marks(function):
    for mark in (pytest.mark.netns, *in_namespaces):
        function = mark(function)
    return function


@pytest.fixture
def net():
    with routed(f"table inet t {{\n{CHAINS}{NAT}\n}}\n") as net:
        yield net


def close_both(net, version, port):
    """A connection to `port`, translated to 80, whose ends are both closed; the client's port."""
    listener = net.serve(version, socket.SOCK_STREAM, 80)
    client = net.dial(version, socket.SOCK_STREAM, port)
    origin, _ = listener.accept()
    source_port = client.getsockname()[1]
    client.close()
    assert origin.recv(1) == b""
    origin.close()
    return source_port


def wait_for(log, count):
    packets = []
    until(lambda: (select.select([log], [], [], 0.1)[0] and packets.extend(log.read())) or len(packets) >= count)
    return packets


def addresses(packet):
    """As a flow key: addresses and ports."""
    at, l4 = (12, 20) if packet[0] >> 4 == 4 else (8, 40)
    return packet[at : l4 + 4]


@marks
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("place", GROUPS)
def test_the_ends_of_a_translated_connection_come_both_ways(net, version, place):
    log = net.router.run(PacketLog, GROUPS[place])
    port = close_both(net, version, 83)
    there, back = wait_for(log, 2)
    log.close()
    near, far, public = CLIENT[version], ORIGIN[version], ROUTER[version]
    own = key(version, near, far, port, 80), key(version, far, near, 80, port)
    expected = {
        "raw": (key(version, near, far, port, 83), key(version, far, public, 80, port)),
        "behind_dstnat": own,
        "forward": own,
        "behind_srcnat": (key(version, public, far, port, 80), key(version, far, near, 83, port)),
    }
    expected["mangle"] = expected["raw"]
    assert (addresses(there[2]), addresses(back[2])) == expected[place]
    flags = 33 if version == 4 else 53
    assert there[2][flags] & back[2][flags] & 1  # FIN
    assert (there[:2], back[:2]) == ((0x1234_5678, FAR), (0x1234_5678, LAN))


@marks
def test_a_packet_is_cut_at_the_snap_length(net):
    net.load(
        "flush ruleset\ntable inet t { chain c { type filter hook forward priority 0; log group 5 snaplen 64; }\n}\n"
    )
    log = net.router.run(PacketLog, 5)
    net.serve(4, socket.SOCK_DGRAM, 53)
    client = net.dial(4, socket.SOCK_DGRAM, 53)
    client.send(bytes(500))
    client.send(bytes(10))
    long, short = wait_for(log, 2)
    log.close()
    assert len(long[2]) == 64
    assert int.from_bytes(long[2][2:4], "big") == 528
    assert len(short[2]) == 38


@marks
def test_what_nobody_reads_is_known_to_be_lost(net):
    net.load(ALL % "")
    log = net.router.run(lambda: PacketLog(5, threshold=1, receive_bytes=4096))
    net.serve(4, socket.SOCK_DGRAM, 53)
    client = net.dial(4, socket.SOCK_DGRAM, 53)
    for _ in range(300):
        client.send(bytes(100))
    packets = log.read(1000)
    assert 0 < len(packets) < 300
    assert log.lost > 0
    client.send(b"last")
    [last] = wait_for(log, 1)
    assert last[2].endswith(b"last")
    log.close()


@marks
def test_a_group_has_one_receiver(net):
    log = net.router.run(PacketLog, 5)
    with pytest.raises(PermissionError, match="log group 5"):
        net.router.run(PacketLog, 5)
    log.close()
    net.router.run(PacketLog, 5).close()


@marks
def test_a_group_is_heard_without_being_root():
    script = (
        "import socket, subprocess, select\n"
        "from proxy.device.interface import bring_up\n"
        "from proxy.kernel.packetlog import PacketLog\n"
        "bring_up('lo'); log = PacketLog(5)\n"
        "rules = 'table inet t { chain o { type filter hook output priority 0; log group 5; }\\n}\\n'\n"
        "subprocess.run(['nft', '-f', '-'], input=rules.encode(), check=True)\n"
        "socket.socket(socket.AF_INET, socket.SOCK_DGRAM).sendto(b'heard', ('127.0.0.1', 9))\n"
        "select.select([log], [], [], 10); print(log.read()[0][2][-5:])\n"
    )
    command = ["unshare", "--user", "--map-root-user", "--net", sys.executable, "-W", "ignore", "-c", script]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.stdout == "b'heard'\n", run.stderr


PARTS = [
    attribute(1, b"\x08\0\x03\0"),
    attribute(2, b"\0\0\0\x05"),
    attribute(4, b"\0\0\0\x0c"),
    attribute(9, b"packet"),
]
BODY = b"".join(PARTS)


def test_a_record_without_payload_is_left_out():
    assert packetlog._parse(bytearray(BODY), 0, len(BODY)) == (5, 12, b"packet", 0)
    for end in range(len(BODY) - 2):  # two bytes of padding
        assert packetlog._parse(bytearray(BODY), 0, end) is None


@given(st.binary(max_size=100), st.integers(0, len(PARTS)))
def test_a_record_never_reaches_beyond_its_end(garbage, at):
    raw = b"".join(PARTS[:at]) + garbage + b"".join(PARTS[at:])
    packet = packetlog._parse(bytearray(raw + b"beyond"), 0, len(raw))
    assert packet is None or packet[2] in raw

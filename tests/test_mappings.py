"""Many short UDP flows, and answers from other ports: the whole proxy, and real programs.

laptop ==(SEQPACKET)== proxy ------ origin, with a TFTP server
"""

from __future__ import annotations

import os
import random
import shutil
import socket
import subprocess
import tempfile
from pathlib import Path

import pytest
from scapy.layers.inet import UDP
from scapy.packet import Raw

from tests.netns import needs_root
from tests.packets import parsed, recomputed
from tests.running import CONFIGURATION, ORIGIN, PATIENCE_S, staged, until
from tests.test_app import ping

pytestmark = [pytest.mark.netns, needs_root]

# The shares of tenants are of what the proxy may open: a low limit is reached by few ports, and shared in the same way.
DESCRIPTORS = 4_500
PORTS, CONNECTIONS = 3_500, 500
MANY_PORTS = 25_000


@pytest.fixture(scope="module")
def running():
    text = CONFIGURATION.replace(", limits: {flows: 200}", "") + f"descriptors: {DESCRIPTORS}\n"
    with staged(configuration=text) as stage:
        yield stage


@pytest.fixture
def stage(running):
    yield running
    running.after_test()


@pytest.fixture
def tftp_root():
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        yield Path(directory)


@pytest.mark.skipif(not (shutil.which("in.tftpd") and shutil.which("tftp")), reason="needs in.tftpd and tftp")
@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])
def test_tftp(stage, version, offload, tftp_root):
    """The server answers each request from a new port (RFC 1350 4)."""
    data = random.Random(version).randbytes(100_000)
    (tftp_root / "file").write_bytes(data)
    (tftp_root / "file").chmod(0o644)
    address = f"[{ORIGIN[6]}]" if version == 6 else ORIGIN[4]
    command = ["in.tftpd", "--foreground", "--user", "root", "--address", f"{address}:69", "--secure", str(tftp_root)]
    server = stage.origin.run(subprocess.Popen, command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        table = Path(f"/proc/{server.pid}/net/udp{'6' if version == 6 else ''}")
        until(lambda: ":0045 " in table.read_text())
        laptop = stage.laptop(offload=offload)
        wanted = tftp_root / "copy"
        client = ["tftp", f"-{version}", "-m", "binary", ORIGIN[version], "-c", "get", "file", str(wanted)]
        laptop.run(subprocess.run, client, timeout=PATIENCE_S, check=True, capture_output=True)
        assert wanted.read_bytes() == data
    finally:
        server.terminate()
        server.wait(PATIENCE_S)
    flows = stage.control.flows([("all_tenants", "true"), ("dst", ORIGIN[version]), ("protocol", "udp")]).items
    (parent,) = [flow for flow in flows if flow.dst_port == 69 and flow.tunnel == flows[0].tunnel]
    (child,) = [flow for flow in flows if flow.parent_id == parent.flow_id]
    assert child.total.origin_payload_bytes == len(data) + 4 * (len(data) // 512 + 1)
    assert (child.src_port, child.dst_port != 69) == (parent.src_port, True)


def datagrams(client, version, server, ports):
    """One from each of these ports, as fast as the tunnel takes them. Only the port differs, and the checksum by it."""
    packet = bytearray(
        recomputed(bytes(client.network(version) / UDP(sport=0, dport=server.getsockname()[1]) / Raw(b"x")))
    )
    at = parsed(packet).l4
    packet[at + 6 : at + 8] = bytes(2)  # without a checksum
    for port in ports:
        packet[at : at + 2] = port.to_bytes(2, "big")
        client.send(bytes(packet))


def drained(sock):
    """How many datagrams waited."""
    count = 0
    sock.setblocking(False)
    try:
        while sock.recv(10):
            count += 1
    except BlockingIOError:
        return count
    return count


@pytest.mark.slow
def test_sessions_of_one_tenant_leave_another_its_connections(stage):
    """One opens a session from each of many ports, the other then hundreds of connections at once: all succeed."""
    sink, listener = stage.listen(kind=socket.SOCK_DGRAM), stage.listen(backlog=CONNECTIONS)
    greedy = stage.client()
    datagrams(greedy, 4, sink, range(1_000, 1_000 + PORTS))
    until(lambda: drained(sink) >= 0 and stage.status.tenants["acme"].flows_started.get("udp", 0) >= PORTS)
    laptop = stage.laptop(tenant="globex")
    socks = [laptop.run(socket.socket) for _ in range(CONNECTIONS)]
    try:
        for sock in socks:
            sock.setblocking(False)
            sock.connect_ex(listener.getsockname())
        accepted = []
        listener.setblocking(False)

        def accept():
            try:
                while True:
                    accepted.append(listener.accept()[0])
            except BlockingIOError:
                return len(accepted) == CONNECTIONS

        until(accept, 60)
        for sock in accepted:
            sock.close()
        for sock in socks:
            sock.settimeout(PATIENCE_S)
            assert sock.recv(1) == b""  # connected, and closed in order
    finally:
        for sock in socks:
            sock.close()
    status = stage.status.tenants
    assert "no_descriptors" not in status["globex"].drops
    greedy.close()
    until(lambda: not stage.status.flows, 60)


@pytest.mark.slow
def test_many_more_ports_of_one_client_than_there_are_descriptors(stage):
    """The longest idle make way, each is recorded, and others notice nothing."""
    sink, greedy, other = stage.listen(kind=socket.SOCK_DGRAM), stage.client(), stage.client("globex")
    before = dict(stage.status.tenants["acme"].flows_ended)
    sent = 0
    while sent < MANY_PORTS:
        datagrams(greedy, 4, sink, range(1_000 + sent, 2_000 + sent))
        sent += 1_000
        drained(sink)
        other.send(ping(other, 4, sent // 1_000))
        other.receive()
    evicted = stage.status.tenants["acme"].flows_ended.get("evicted", 0) - before.get("evicted", 0)
    live = stage.status.flows["udp"]
    assert live <= DESCRIPTORS
    assert evicted >= MANY_PORTS // 2 - DESCRIPTORS
    assert not stage.status.tenants["acme"].drops.get("no_descriptors")
    greedy.close()
    until(lambda: "udp" not in stage.status.flows, 60)

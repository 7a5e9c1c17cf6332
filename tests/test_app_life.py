"""The whole proxy under a kernel's own TCP, under garbage, and at its end."""

from __future__ import annotations

import errno
import hashlib
import os
import random
import signal
import socket
import struct
import subprocess
import sys
import threading

import pytest
from scapy.layers.inet import TCP, UDP
from scapy.packet import Raw

from proxy.control.store import RecordedFlows
from tests.fuzz.mutate import corpus, mutate
from tests.netns import needs_root
from tests.packets import CLIENT
from tests.running import ORIGIN, ROOT, SILENT, staged, until
from tests.test_app import ping

pytestmark = [pytest.mark.netns, needs_root]
FAMILIES = pytest.mark.parametrize("version", [4, 6])
MODES = pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])
SIZE = 16 << 20
CHATTER = {"spoofed_source", "tunnel_closed"}  # router solicitations of a client's kernel; packets for one that left


@pytest.fixture(scope="module")
def running():
    with staged() as stage:
        yield stage


@pytest.fixture
def stage(running):
    yield running
    running.after_test()


def read_all(sock):
    digest, size = hashlib.sha256(), 0
    while data := sock.recv(1 << 18):
        digest.update(data)
        size += len(data)
    return size, digest.hexdigest()


def in_background(function, *arguments):
    """Call `function` on a thread of its own; what is returned waits for its result."""
    results = []

    def work():
        try:
            results.append((function(*arguments), None))
        except BaseException as error:
            results.append((None, error))

    thread = threading.Thread(target=work)
    thread.start()

    def join():
        thread.join(60)
        assert results, "it is still not done"
        result, error = results[0]
        if error is not None:
            raise error
        return result

    return join


def send_and_shut(sock, data):
    sock.sendall(data)
    sock.shutdown(socket.SHUT_WR)


@pytest.mark.slow
@FAMILIES
@MODES
def test_bulk_both_ways_at_once_of_a_kernel_through_the_proxy(stage, version, offload):
    data = random.Random(3).randbytes(SIZE)
    expected = SIZE, hashlib.sha256(data).hexdigest()
    listener, laptop = stage.listen(version), stage.laptop(offload=offload)
    sock = laptop.tcp(ORIGIN[version], listener.getsockname()[1])
    server = stage.accept(listener)
    waits = [in_background(send_and_shut, end, data) for end in (sock, server)]
    upload = in_background(read_all, server)
    assert read_all(sock) == expected
    assert upload() == expected
    for wait in waits:
        wait()
    sock.close()
    (record,) = until(lambda: stage.ended(dst_port=listener.getsockname()[1]))
    assert (record.total.client_payload_bytes, record.total.origin_payload_bytes) == (SIZE, SIZE)
    assert record.conn_state == "SF"


@FAMILIES
def test_half_close_of_a_kernel_through_the_proxy(stage, version):
    listener, laptop = stage.listen(version), stage.laptop()
    with laptop.tcp(ORIGIN[version], listener.getsockname()[1]) as sock:
        server = stage.accept(listener)
        send_and_shut(sock, b"question")
        assert read_all(server)[0] == 8
        server.sendall(b"a late answer")
        assert sock.recv(100) == b"a late answer"
        server.close()
        assert sock.recv(100) == b""


@MODES
@pytest.mark.parametrize("who", ["client", "origin"])
def test_reset_of_a_kernel_crosses_the_proxy(stage, offload, who):
    listener, laptop = stage.listen(), stage.laptop(offload=offload)
    sock = laptop.tcp(ORIGIN[4], listener.getsockname()[1])
    server = stage.accept(listener)
    sock.send(b"x")
    assert server.recv(1) == b"x"
    broken, witness = (sock, server) if who == "client" else (server, sock)
    broken.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    broken.close()
    with pytest.raises(ConnectionResetError):
        witness.recv(1)
    (record,) = until(lambda: stage.ended(dst_port=listener.getsockname()[1]))
    assert record.close_reason == f"{who}_reset"
    sock.close()


@FAMILIES
@MODES
def test_refusal_is_told_to_a_kernel_at_once(stage, version, offload):
    laptop = stage.laptop(offload=offload)
    with stage.listen(version) as listener:
        port = listener.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        laptop.tcp(ORIGIN[version], port)


@pytest.mark.parametrize("address", ["203.0.113.9", "2001:db8::9", "10.77.0.9"])
def test_unreachable_is_told_to_a_kernel_at_once(stage, address):
    laptop = stage.laptop()
    with pytest.raises(OSError, match=r"unreachable|No route") as caught:
        laptop.tcp(address, 80, timeout_s=10)
    assert caught.value.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH)


def test_client_that_vanishes_ends_its_flows_and_their_origins_see_it(stage):
    listener, client = stage.listen(), stage.client()
    client.connect(4, 40_000, listener.getsockname()[1])
    server = stage.accept(listener)
    client.close()
    with pytest.raises(ConnectionResetError):
        server.recv(1)
    (record,) = until(lambda: stage.ended(src=client.addresses[4]))
    assert (record.close_reason, record.closed_by) == ("tunnel_closed", "proxy")


@pytest.mark.slow
@pytest.mark.parametrize("offload", [False, True], ids=["plain", "offload"])
def test_garbage_of_one_tenant_leaves_the_transfer_of_another_unharmed(stage, offload):
    data = random.Random(4).randbytes(SIZE)
    listener, laptop = stage.listen(), stage.laptop(offload=offload)
    sock = laptop.tcp(ORIGIN[4], listener.getsockname()[1])
    serving = in_background(send_and_shut, stage.accept(listener), data)
    before = stage.status.tenants
    attacker = stage.client("globex", offload=offload, addresses=list(CLIENT.values()))
    attacker.sock.setblocking(False)
    rng, packets, given = random.Random(5), corpus(1), 0
    reading = in_background(read_all, sock)
    while given < 5000:
        packet = mutate(rng, packets) if rng.random() < 0.8 else rng.randbytes(rng.randrange(200))
        header = rng.choice((bytes(10), rng.randbytes(10))) if offload else b""
        try:
            attacker.sock.send(header + packet)
            given += 1
        except BlockingIOError:  # the proxy is behind; it must catch up
            pass
        drain(attacker.sock)
    assert reading() == (SIZE, hashlib.sha256(data).hexdigest())
    serving()
    counted = before["globex"].client_packets + given
    until(lambda: drain(attacker.sock) or stage.status.tenants["globex"].client_packets == counted)
    after = stage.status.tenants
    assert len(after["globex"].drops) > 8
    assert set(after["acme"].drops) <= set(before["acme"].drops) | CHATTER
    assert after["globex"].flows.get("tcp", 0) <= 200


def drain(sock):
    """Read and forget, so that the proxy's answers do not pile up."""
    try:
        while sock.recv(70_000):
            pass
    except BlockingIOError:
        return False
    return False


def test_tunnel_that_never_reads_does_not_stop_another(stage):
    """Its client asks for much and takes nothing; pings of the other are answered meanwhile."""
    server, deaf, other = stage.listen(kind=socket.SOCK_DGRAM), stage.client(), stage.client()
    deaf.send(bytes(deaf.network(4) / UDP(sport=1, dport=server.getsockname()[1]) / Raw(b"give")))
    _, address = server.recvfrom(10)
    lost = stage.status.tenants["acme"].drops.get("tunnel_full", 0)

    def more():
        for _ in range(20):
            server.sendto(bytes(60_000), address)
        other.send(ping(other, 4))
        other.receive()
        return stage.status.tenants["acme"].drops.get("tunnel_full", 0) > lost

    until(more)
    queued = [tunnel.queued_bytes for tunnel in stage.control.tunnels("acme")]
    assert 0 < max(queued) <= 8 << 20


def test_drain_ends_every_flow_once_with_its_record():
    with staged() as stage:
        listener, server = stage.listen(), stage.listen(kind=socket.SOCK_DGRAM)
        client = stage.client()
        port = listener.getsockname()[1]
        for number in range(3):
            client.connect(4, 40_000 + number, port)
        accepted = [stage.accept(listener) for _ in range(3)]
        client.send(bytes(client.network(4) / UDP(sport=5000, dport=server.getsockname()[1]) / Raw(b"x")))
        server.recvfrom(10)
        client.send(ping(client, 4))
        client.receive()
        client.send(client.segment(4, 41_000, 80, "S", dst=SILENT))  # held for ever
        until(lambda: stage.status.flows == {"tcp": 4, "udp": 1, "icmp": 1})
        stage.process.send_signal(signal.SIGTERM)
        for sock in accepted:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)
        assert stage.process.wait(15) == 0
        recorded = RecordedFlows(os.path.join(stage.directory, "flows.db"))
        found = recorded.flows([("all_tenants", "true"), ("limit", "100")])
        rows = sorted((record.protocol, record.close_reason) for record in found.items)
        assert rows == [("icmp", "drain")] + [("tcp", "drain")] * 4 + [("udp", "drain")]
        assert not os.path.exists(stage.path)


def test_second_proxy_may_follow_the_first():
    with staged() as stage:
        for _ in range(2):
            client = stage.client()
            client.send(ping(client, 4))
            client.receive()
            assert stage.stop() == 0
            stage.start()


def test_segment_of_a_connection_from_before_is_reset(stage):
    """A client whose proxy was started again recovers at once."""
    client = stage.client()
    client.send(client.segment(4, 40_000, 80, "PA", seq=5, ack=77, payload=b"still there?"))
    answer = client.packet()[TCP]
    assert (answer.flags, answer.seq) == ("R", 77)


def test_an_egress_that_is_not_there_is_told_at_the_start(tmp_path):
    file = tmp_path / "proxy.yaml"
    file.write_text(
        f"tenants: {{acme: {{egress: loo}}}}\n"
        f"onramps: [{{kind: connected, path: {tmp_path}/ramp.sock}}]\ncontrol: {tmp_path}/control.sock\n"
    )
    command = [sys.executable, "-m", "proxy", str(file)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=30, check=False)
    assert done.returncode == 1
    assert done.stderr == "proxy: tenant 'acme': egress: no interface 'loo'; did you mean 'lo'?\n"
    assert list(tmp_path.iterdir()) == [file]

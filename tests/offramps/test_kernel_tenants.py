"""Tenants with the same addresses, at the same instant, share nothing of the kernel off-ramp.

client 10.1.0.2 of alpha --- in1 ---.                                   10.2.0.11, ports 2048-4095
client 10.1.0.2 of beta ---- in2 ---+-- edge --- out --- 10.2.0.2 origin
client 10.1.0.2 of gamma --- in3 ---'     `---- out2 --- 10.2.0.2 another origin
"""

from __future__ import annotations

import contextlib
import socket
import threading
from pathlib import Path

import pytest

from tests.loops import open_descriptors
from tests.netns import needs_root
from tests.offramps.kernel_scene import (
    CLIENT,
    EDGE,
    FAMILIES,
    ORIGIN,
    SECOND,
    Net,
    Proxy,
    ask,
    connect_tunnel,
    echo,
    entries,
    ip,
    link,
    needs,
)
from tests.running import until

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_root]
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
KINDS = {socket.SOCK_STREAM: "tcp", socket.SOCK_DGRAM: "udp"}
NAMES = ("alpha", "beta", "gamma")
SNAT = {4: "10.2.0.11", 6: "fd02::11"}
PORT = 20_202  # of each client
FILTERING = ("endpoint", "address", "address-and-port")
CONFIGURATION = """
node: edge
offramp: kernel
tenants:
  alpha: {snat: [10.2.0.11, "fd02::11"], ports: 2048-4095, udp_filtering: endpoint}
  beta: {udp_filtering: address}
  gamma: {egress: out2, udp_filtering: address-and-port}
onramps:
"""


class Tenants(Net):
    """Three of them, who differ in nothing."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.other = self.namespace()
        link(self.edge, "out2", [f"{EDGE[4]}/24", f"{EDGE[6]}/64"], self.other, "o1",
             [f"{ORIGIN[4]}/24", f"{ORIGIN[6]}/64"])  # fmt: skip
        ip(self.edge, f"addr add {SNAT[4]}/24 dev out\naddr add {SNAT[6]}/64 dev out nodad preferred_lft 0")
        ramps = "  - {kind: connected, path: ramp.sock}\n"
        if kind == "interface":
            ramps = "".join(
                f"  - {{kind: interface, interfaces: [in{number}], tenant: {name}}}\n"
                for number, name in enumerate(NAMES, 1)
            )
            self.clients = {name: self.client_at(f"in{number}") for number, name in enumerate(NAMES, 1)}
        self.proxy = Proxy(self.directory, self.edge, CONFIGURATION + ramps)
        with self.undone_on_failure():
            self.proxy.start()
            if kind != "interface":
                self.clients = {}
                for name in NAMES:
                    client = connect_tunnel(self.proxy.file("ramp.sock"), offload=False, tenant=name)
                    self._stack.callback(client.close)
                    self.clients[name] = client

    def origin_of(self, name):
        return self.other if name == "gamma" else self.origin


@pytest.fixture(scope="module", params=["interface", "connected"])
def made(request):
    before = open_descriptors()
    tenants = Tenants(request.param)
    yield tenants
    tenants.close()
    assert open_descriptors() == before


def server(net, namespace, version, kind, port=0, address=None):
    sock = net.sock(namespace, version, kind)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind((address or ORIGIN[version], port))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    return sock


def one(net, name, version, kind, port, barrier):
    """One client's question, at the same instant as the others', and what it is answered."""
    sock = net.clients[name].run(socket.socket, FAMILIES[version], kind)
    with sock:
        sock.settimeout(20)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((CLIENT[version], PORT))
        barrier.wait(20)
        sock.connect((ORIGIN[version], port))
        sock.send(name.encode())
        return sock.recv(100).decode()


def answering(listener, kind, count, seen):
    """Say to each who it is, and by whom it came."""
    kept = []
    for _ in range(count):
        if kind == socket.SOCK_STREAM:
            sock, peer = listener.accept()
            kept.append(sock)
            name = sock.recv(100)
            sock.send(b"you are " + name)
        else:
            name, peer = listener.recvfrom(100)
            listener.sendto(b"you are " + name, peer)
        seen.setdefault(name.decode(), []).append(peer[:2])
    for sock in kept:
        sock.close()


@VERSIONS
@pytest.mark.parametrize("kind", KINDS, ids=KINDS.values())
def test_same_address_and_port_at_the_same_instant(net, version, kind):
    here = server(net, net.origin, version, kind)
    port = here.getsockname()[1]
    there = server(net, net.other, version, kind, port)
    seen, elsewhere, answers = {}, {}, {}
    threads = [
        threading.Thread(target=answering, args=(here, kind, 2, seen)),
        threading.Thread(target=answering, args=(there, kind, 1, elsewhere)),
    ]
    barrier = threading.Barrier(3)

    def ask_one(name):
        answers[name] = one(net, name, version, kind, port, barrier)

    threads += [threading.Thread(target=ask_one, args=(name,)) for name in NAMES]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert answers == {name: f"you are {name}" for name in NAMES}
    ((address, outside),) = seen["alpha"]
    assert address == SNAT[version]
    assert 2048 <= outside <= 4095
    # the same addresses and ports twice outside, but for the interface: one of them has another port
    assert [address for address, _ in (*seen["beta"], *elsewhere["gamma"])] == [EDGE[version]] * 2
    assert seen.keys() == {"alpha", "beta"}
    assert elsewhere.keys() == {"gamma"}
    assert seen["beta"] != elsewhere["gamma"]
    found = until(lambda: _all_records(net, port, KINDS[kind], version))
    assert {record.tenant: (record.src, record.src_port, record.egress_ip) for record in found} == {
        "alpha": (CLIENT[version], PORT, SNAT[version]),
        "beta": (CLIENT[version], PORT, EDGE[version]),
        "gamma": (CLIENT[version], PORT, EDGE[version]),
    }


def _all_records(net, port, protocol, version):
    """Of all three, when they are there; each is under its own tenant only."""
    wanted = {"dst_port": port, "protocol": protocol, "dst": ORIGIN[version]}
    for name in NAMES:
        answer = net.proxy.control.flows([("tenant", name), ("scope", "all"), ("limit", "1000")])
        assert {record.tenant for record in answer.items} <= {name}
    found = {record.flow_id: record for record in (*net.proxy.live(**wanted), *net.proxy.ended(**wanted))}
    return list(found.values()) if len(found) >= 3 else None


@VERSIONS
def test_hundred_clients_ports_share_a_range(net, version):
    """Each connection has a port of its own from the tenant's range."""
    listener = server(net, net.origin, version, socket.SOCK_STREAM)
    listener.listen(200)
    peers = set()
    with contextlib.ExitStack() as stack:
        for _ in range(100):
            sock = stack.enter_context(net.clients["alpha"].run(socket.socket, FAMILIES[version], socket.SOCK_STREAM))
            sock.settimeout(20)
            sock.connect((ORIGIN[version], listener.getsockname()[1]))
            accepted, peer = listener.accept()
            stack.enter_context(accepted)
            peers.add(peer[:2])
    assert len(peers) == 100
    assert {address for address, _ in peers} == {SNAT[version]}
    assert all(2048 <= port <= 4095 for _, port in peers)


@VERSIONS
@pytest.mark.parametrize("name", NAMES)
def test_filtering_of_answers_that_nobody_asked_for(net, version, name):
    """RFC 4787 5: from the address and port that was asked; from another port of it; from another address."""
    origin = net.origin_of(name)
    if name == "gamma":
        with contextlib.suppress(AssertionError):
            ip(origin, f"addr add {SECOND[version]}/{24 if version == 4 else 64} dev o1"
               + (" nodad" if version == 6 else ""))  # fmt: skip
    asked = server(net, origin, version, socket.SOCK_DGRAM)
    port, address = (
        server(net, origin, version, socket.SOCK_DGRAM, address=each[version]) for each in (ORIGIN, SECOND)
    )
    client = net.sock(net.clients[name], version, socket.SOCK_DGRAM)
    client.sendto(b"hello", asked.getsockname())
    _, outside = asked.recvfrom(100)
    asked.sendto(b"first canary", outside)
    assert client.recv(100) == b"first canary"
    for sock, word in ((port, b"another port"), (address, b"another address")):
        sock.sendto(word, outside)
        sock.sendto(word, outside)
    expected = {"endpoint": 2, "address": 1, "address-and-port": 0}[FILTERING[NAMES.index(name)]]
    words = [b"another port", b"another address"][:expected]
    got = set()
    while len(got) < expected:
        data, sender = client.recvfrom(100)
        got.add((data, sender[:2]))
    asked.sendto(b"last canary", outside)
    while (data := client.recv(100)) != b"last canary":
        assert data in words
    assert {data for data, _ in got} == set(words)
    senders = {b"another port": port, b"another address": address}
    assert all(senders[data].getsockname()[:2] == sender for data, sender in got)
    if expected:
        client.sendto(b"and back", port.getsockname())
        back = port.recvfrom(100)
        assert back == (b"and back", outside) or back[1][:2] == outside[:2]


@needs("tftp")
@needs("in.tftpd")
@pytest.mark.parametrize("name", NAMES)
def test_tftp_answers_from_another_port(net, name):
    """It works where such answers are let in: not with address-and-port, as behind a plain router."""
    directory = Path(net.directory, "tftp")
    if not directory.exists():
        directory.mkdir(mode=0o755)
        (directory / "file").write_bytes(b"over TFTP" * 1000)
        for namespace in (net.origin, net.other):
            words = ("in.tftpd", "--listen", "--foreground", "--address", f"{ORIGIN[4]}:6969", "--secure", directory)
            main, net.origin = net.origin, namespace
            net.serve(6969, *words, "--user", "root", kind="udp")
            net.origin = main
    copy = Path(net.directory, f"copy-{name}")
    copy.unlink(missing_ok=True)
    words = f"tftp -m binary {ORIGIN[4]} 6969 -c get file {copy}"
    net.program(net.clients[name], "timeout", "15", *words.split(), code=None)
    is_let_in = name != "gamma"
    assert (copy.exists() and copy.read_bytes() == b"over TFTP" * 1000) == is_let_in


def test_connections_of_tenants_stand_in_zones_of_their_own(net):
    zones = {}
    for name in NAMES:
        origin = net.origin_of(name)
        main, net.origin = net.origin, origin
        client = net.sock(net.clients[name], 4, socket.SOCK_DGRAM)
        client.bind((CLIENT[4], 21_212))
        ask(client, echo(net, 4))
        net.origin = main
    for entry in entries(net.edge):
        if entry.protocol == 17 and entry.original[8:10] == (21_212).to_bytes(2, "big"):
            zones.setdefault(entry.mark & 0x3FFF, set()).add(entry.zone)
    assert len(zones) == 3
    assert len({zone for found in zones.values() for zone in found}) == 3

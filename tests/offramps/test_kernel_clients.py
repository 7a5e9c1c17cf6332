"""Clients of tunnels and sites behind interface on-ramps: they reach each other with their own addresses.

laptop 100.96.0.2 ==== tunnel ---.          .--- in1 (MTU 1400) --- 10.1.0.2  site      ours
laptop 100.96.0.2 ==== tunnel ---+-- edge --+--- in2 -------------- 10.1.0.2  site      others', with the same addresses
"""

from __future__ import annotations

import socket

import pytest

from tests.loops import open_descriptors
from tests.netns import needs_root
from tests.offramps.kernel_scene import CLIENT, Net, Proxy, connect_tunnel, entries, ip, read_all, transfer
from tests.running import until

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_root]
LAPTOP = {4: "100.96.0.2", 6: "fd00:96::2"}
SITE_MTU = 1400
ROUTES = (
    "[{prefix: 100.96.0.0/12, via: clients}, {prefix: 'fd00:96::/64', via: clients}, "
    "{prefix: 0.0.0.0/0, via: kernel}, {prefix: '::/0', via: kernel}]"
)
CONFIGURATION = f"""
node: edge
offramp: kernel
timeouts: {{udp_idle_s: 1, udp_unreplied_s: 1}}
tenants:
  ours: {{networks: {{default: {{routes: {ROUTES}}}}}}}
  others: {{networks: {{default: {{routes: {ROUTES}}}}}}}
onramps:
  - {{kind: interface, interfaces: [in1], tenant: ours}}
  - {{kind: interface, interfaces: [in2], tenant: others}}
  - {{kind: connected, path: ramp.sock}}
"""
VERSIONS = pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
BEGINNERS = pytest.mark.parametrize("beginner", ["client", "site"])


class Place(Net):
    """Two tenants; a laptop and a site of each."""

    def __init__(self, *, offload: bool) -> None:
        super().__init__()
        self.sites = self.client_at("in1"), self.client_at("in2")
        ip(self.edge, f"link set in1 mtu {SITE_MTU}")
        self.proxy = Proxy(self.directory, self.edge, CONFIGURATION)
        with self.undone_on_failure():
            self.proxy.start()
            self.laptops = []
            for tenant in ("ours", "others"):
                laptop = connect_tunnel(
                    self.proxy.file("ramp.sock"), offload=offload, tenant=tenant, addresses=list(LAPTOP.values())
                )
                self._stack.callback(laptop.close)
                self.laptops.append(laptop)

    def pair(self, version, beginner, tenant=0, port=0):
        """Both ends of a connection, the one that began first."""
        ends = (self.laptops[tenant], LAPTOP), (self.sites[tenant], CLIENT)
        (near, _), (far, address) = ends if beginner == "client" else ends[::-1]
        listener = self.server(far, version, port=port)
        client = self.sock(near, version, socket.SOCK_STREAM)
        client.connect((address[version], listener.getsockname()[1]))
        return client, self.accept(listener)

    def server(self, namespace, version, kind=socket.SOCK_STREAM, port=0):
        sock = self.sock(namespace, version, kind)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(("::" if version == 6 else "0.0.0.0", port))
        if kind == socket.SOCK_STREAM:
            sock.listen(8)
        return sock


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "offload"])
def made(request):
    before = open_descriptors()
    place = Place(offload=request.param)
    yield place
    place.close()
    assert open_descriptors() == before


@VERSIONS
@BEGINNERS
def test_a_connection_keeps_its_addresses_and_its_record_is_exact(net, version, beginner):
    client, server = net.pair(version, beginner)
    port = server.getsockname()[1]
    assert server.getpeername()[:2] == client.getsockname()[:2]
    assert client.getsockname()[0] == (LAPTOP if beginner == "client" else CLIENT)[version]
    transfer(client, server, 300_001)
    transfer(server, client, 200_003)
    (live,) = net.proxy.live(dst_port=port, protocol="tcp")
    assert (live.level, live.offramp, live.offramp_tunnel) == (
        "packet", "tunnel", "in1" if beginner == "client" else "ramp.sock-1",
    )  # fmt: skip
    assert not entries(net.edge)
    client.close()
    assert read_all(server) == (0, "end")
    server.close()
    (record,) = until(lambda: net.proxy.ended(dst_port=port, protocol="tcp"))
    assert (record.close_reason, record.history) == ("client_closed", "ShAFf")
    assert (record.total.client_payload_bytes, record.total.origin_payload_bytes) == (300_001, 200_003)


@VERSIONS
@BEGINNERS
def test_two_tenants_with_the_same_addresses_and_ports_at_once(net, version, beginner):
    pairs = [net.pair(version, beginner, tenant, 7070) for tenant in (0, 1)]
    for number, (client, server) in enumerate(pairs):
        client.send(bytes([number]) * 100)
        assert server.recv(1000) == bytes([number]) * 100
        server.send(bytes([number]) * 50)
        assert client.recv(1000) == bytes([number]) * 50
    assert {flow.tenant for flow in net.proxy.live(dst_port=7070, protocol="tcp")} == {"ours", "others"}


@VERSIONS
@BEGINNERS
def test_datagrams_and_the_end_of_their_flow(net, version, beginner):
    near, far = net.laptops[0], net.sites[0]
    address = CLIENT
    if beginner == "site":
        near, far, address = far, near, LAPTOP
    server, client = (net.server(space, version, socket.SOCK_DGRAM) for space in (far, near))
    port = server.getsockname()[1]
    for size in (10, 1300, 1300):
        client.sendto(bytes(size), (address[version], port))
        data, peer = server.recvfrom(70_000)
        assert (len(data), peer[0]) == (size, (LAPTOP if beginner == "client" else CLIENT)[version])
        server.sendto(bytes(size), peer)
        assert len(client.recv(70_000)) == size
    (record,) = until(lambda: net.proxy.ended(dst_port=port, protocol="udp"))
    assert (record.close_reason, record.total.client_packets) == ("client_idle_timeout", 3)
    assert record.total.client_payload_bytes == record.total.origin_payload_bytes == 2610


@VERSIONS
def test_errors_reach_who_caused_them(net, version):
    """What is too big for the site's link, told by the proxy; and a closed port, told by the site."""
    client = net.sock(net.laptops[0], version, socket.SOCK_DGRAM)
    client.connect((CLIENT[version], 9))
    level, discover, mtu = (
        (socket.IPPROTO_IP, 10, 14) if version == 4 else (socket.IPPROTO_IPV6, 23, 24)
    )  # IP_MTU_DISCOVER and IP_MTU, and the same of IPv6 (linux/in.h, linux/in6.h)
    client.setsockopt(level, discover, 2)
    client.send(bytes(1430))
    until(lambda: client.getsockopt(level, mtu) == SITE_MTU)
    client = net.sock(net.laptops[0], version, socket.SOCK_DGRAM)
    client.connect((CLIENT[version], 9))
    with pytest.raises(ConnectionRefusedError):
        until(lambda: client.send(b"?") and client.recv(9))


@VERSIONS
@BEGINNERS
def test_a_kill_resets_both_ends(net, version, beginner):
    client, server = net.pair(version, beginner)
    transfer(client, server, 1000)
    (flow,) = net.proxy.live(dst_port=server.getsockname()[1], protocol="tcp")
    net.proxy.control.kill(flow.flow_id, [("all_tenants", "true")])
    assert read_all(client) == read_all(server) == (0, "ConnectionResetError")


@VERSIONS
@BEGINNERS
def test_the_edge_is_two_hops_the_kernel_and_the_proxy(net, version, beginner):
    """Whoever sends with a TTL that is used up by the proxy is told so; with one more it arrives."""
    near, far, address = net.laptops[0], net.sites[0], CLIENT
    if beginner == "site":
        near, far, address = far, near, LAPTOP
    server, client = (net.server(space, version, socket.SOCK_DGRAM) for space in (far, near))
    level, ttl, errors = (
        (socket.IPPROTO_IP, socket.IP_TTL, 11) if version == 4 else (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 25)
    )  # IP_RECVERR, IPV6_RECVERR
    client.connect((address[version], server.getsockname()[1]))
    client.setsockopt(level, errors, 1)
    for hops in (1, 2):
        client.setsockopt(level, ttl, hops)
        client.send(b"expires")
        with pytest.raises(OSError, match="No route to host"):
            client.recv(100)
    client.setsockopt(level, ttl, 3)
    client.send(b"arrives")
    assert server.recv(100) == b"arrives"

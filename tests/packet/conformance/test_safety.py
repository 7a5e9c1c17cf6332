"""What one tenant can do to another, or to the proxy: nothing. Limits, exhaustion, spoofing, readers that are slow."""

from __future__ import annotations

import socket
import threading

import pytest
from scapy.layers.inet import IP, TCP, UDP
from scapy.layers.inet6 import IPv6
from scapy.packet import Raw

from proxy.device.interface import set_sysctl
from tests.netns import needs_root
from tests.packet.conformance.ends import Connection
from tests.packet.conformance.test_udp import is_udp_to
from tests.packet.conformance.wires import HOP, SCRIPTED, ScriptedStage, datagram, received
from tests.running import CONFIGURATION, ORIGIN, staged, until

pytestmark = [pytest.mark.netns, needs_root]


@pytest.fixture(scope="module")
def running():
    """globex may have 20 flows and hold 300,000 bytes; initech may have 5 new flows a second."""
    text = CONFIGURATION.replace("{flows: 200}", "{flows: 20, bytes_held: 300000}")
    text = text.replace("onramps:", "  initech: {limits: {new_flows_per_s: 5}}\nonramps:")
    with staged(ScriptedStage, configuration=text) as stage:
        yield stage


SPOOFED = {4: ["100.96.200.200", "10.50.0.1", "192.0.2.1"], 6: ["fd00:96::dead", "fd00:50::1", "2001:db8::1"]}
IMPOSSIBLE = {
    4: ["0.0.0.0", "127.0.0.1", "224.0.0.1", "255.255.255.255"],
    6: ["::", "::1", "ff02::1", "::ffff:1.2.3.4"],
}


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_strange_source_is_counted_and_goes_nowhere(stage, client, version, protocol):
    before = stage.dropped("spoofed_source")
    sources = SPOOFED[version] + IMPOSSIBLE[version]
    kind = IP if version == 4 else IPv6
    layer = TCP(sport=5, dport=stage.port, flags="S") if protocol == "tcp" else UDP(sport=5, dport=stage.port)
    client.send(*(bytes(kind(src=source, dst=SCRIPTED[version]) / layer) for source in sources))
    assert stage.quiet(client, version) == ([], [])
    assert stage.dropped("spoofed_source") == before + len(sources)


def test_destination_that_no_host_has_is_counted(stage, client, version):
    before = stage.dropped("bad_address")
    own = client.addresses[version]
    for destination in [*IMPOSSIBLE[version], own]:  # the last is LAND
        client.send(datagram(client, version, 5, 6, b"", dst=destination))
    assert stage.quiet(client, version) == ([], [])
    assert stage.dropped("bad_address") == before + 5


def test_memoised_flow_of_another_cannot_be_used(stage, client, version):
    """A segment of somebody else's connection from the wrong tunnel is spoofed, whatever its numbers."""
    c = Connection(stage, client, version)
    c.established()
    thief = stage.scripted()
    before = stage.dropped("spoofed_source")
    c.client.wire = thief
    c.client.sends("PA", b"stolen", seq=c.client.next)
    c.client.wire = client
    c.client.sends("PA", b"honest")
    assert c.origin.reads(6) == b"honest"
    assert stage.quiet(thief, version)[0] == []
    assert stage.dropped("spoofed_source") == before + 1


def test_flows_over_the_cap_are_refused_and_counted_and_the_others_live(stage, offload, version):
    client, other = stage.scripted("globex", offload=offload), stage.scripted()
    dport = stage.port
    until(lambda: not stage.status.tenants["globex"].flows)
    before = stage.dropped("limit_flows", "globex")
    client.send(*(datagram(client, version, 10_000 + number, dport, b"%d" % number) for number in range(20)))
    assert len({received(stage.network.next(is_udp_to(dport)))[4] for _ in range(20)}) == 20
    client.send(client.segment(version, 4000, dport, "S", dst=SCRIPTED[version]))
    assert str(client.packet()[TCP].flags) == "RA"
    client.send(datagram(client, version, 4000, dport, b"one too many"))  # silence: UDP has no way to say no
    client.send(datagram(client, version, 10_000, dport, b"again"))
    assert received(stage.network.next(is_udp_to(dport)))[4] == b"again"
    assert stage.dropped("limit_flows", "globex") == before + 2
    other.send(datagram(other, version, 5, dport, b"other"))
    assert received(stage.network.next(is_udp_to(dport)))[4] == b"other"


def test_new_flows_over_the_rate_are_silent_and_a_repetition_passes(stage, offload, version):
    client, dport = stage.scripted("initech", offload=offload), stage.port
    before = stage.dropped("limit_rate", "initech")
    client.send(*(datagram(client, version, 11_000 + number, dport, b"%d" % number) for number in range(30)))
    until(lambda: stage.dropped("limit_rate", "initech") >= before + 20)
    wanted = is_udp_to(dport)

    def repeated():
        client.send(datagram(client, version, 11_029, dport, b"last"))
        return any(wanted(packet) and received(packet)[4] == b"last" for packet in stage.network.waiting())

    until(repeated)


@pytest.mark.slow
def test_reader_that_takes_nothing_holds_its_share_and_stops_nobody(stage, offload, version):
    """TCP: its window closes and the origin waits. Meanwhile another tenant moves megabytes."""
    deaf, laptop = stage.scripted("globex", offload=offload), stage.laptop(offload=offload)
    listener = stage.listen(version)
    port = listener.getsockname()[1]
    deaf.connect(version, 12_000, port)
    stuffing = stage.accept(listener)
    stuffing.setblocking(False)
    fill(stuffing)
    sock = laptop.tcp(ORIGIN[version], port)
    server = stage.accept(listener)
    data = bytes(8 << 20)
    threading.Thread(target=server.sendall, args=(data,), daemon=True).start()
    got = 0
    while got < len(data):
        got += len(sock.recv(1 << 18))
    held = [tunnel.queued_bytes for tunnel in stage.control.tunnels("globex")]
    assert max(held, default=0) <= 300_000
    sock.close()


@pytest.mark.slow
def test_reader_that_takes_nothing_of_udp_loses_its_own_packets_only(stage, offload, version):
    deaf, other = stage.scripted("globex", offload=offload), stage.scripted(offload=offload)
    server = stage.listen(version, kind=socket.SOCK_DGRAM)
    head = deaf.network(version) / UDP(sport=13_000, dport=server.getsockname()[1])
    deaf.send(bytes(head / Raw(b"give")))
    _, address = server.recvfrom(10)
    before, losses = stage.dropped("tunnel_full", "globex"), acmes_losses(stage)

    def more():
        for _ in range(50):
            server.sendto(bytes(1200), address)
        assert other.canary(version) == []
        return stage.dropped("tunnel_full", "globex") > before

    until(more)
    assert acmes_losses(stage) == losses
    assert max(tunnel.queued_bytes for tunnel in stage.control.tunnels("globex")) <= 300_000


def fill(sock):
    """Send until no more is taken."""
    try:
        while sock.send(bytes(65_536)):
            pass
    except BlockingIOError:
        return


def acmes_losses(stage):
    """Without what was still on its way to tunnels of earlier scripts, and the chatter of their kernels."""
    drops = stage.status.tenants["acme"].drops
    return {name: count for name, count in drops.items() if name not in ("tunnel_closed", "spoofed_source")}


@pytest.fixture(scope="module")
def scarce():
    """A proxy that may have few descriptors."""
    with staged(ScriptedStage, configuration=CONFIGURATION + "descriptors: 160\n") as stage:
        yield stage


@pytest.fixture(scope="module")
def ten_ports():
    """A proxy whose host has no more local ports than these."""
    with staged(ScriptedStage) as stage:
        assert stage.edge.run(set_sysctl, "net/ipv4/ip_local_port_range", "40000 40009")
        yield stage


def test_no_local_port_left_is_refused_and_counted(ten_ports, offload, version):
    """Towards one destination only: another has ports of its own."""
    client = ten_ports.scripted(offload=offload)
    dport, before = ten_ports.port, ten_ports.dropped("ports_exhausted")
    live = [Connection(ten_ports, client, version, dport=dport) for _ in range(10)]
    for number, c in enumerate(live):
        c.client.sends("S")
        c.origin.accepts()
        c.client.expects("SA", ack=1)
        c.client.sends("A")
        assert c.origin.there[1] in range(40_000, 40_010), number
    client.send(client.segment(version, 9, dport, "S", dst=SCRIPTED[version]))
    said = {4: "ICMP 3/1", 6: "ICMPv6 1/3"}[version]
    assert client.told() == f"{HOP[version]} > {client.addresses[version]} {said} about {SCRIPTED[version]}"
    assert ten_ports.dropped("ports_exhausted") == before + 1
    live[3].client.sends("PA", b"alive")
    assert live[3].origin.reads(5) == b"alive"
    elsewhere = Connection(ten_ports, client, version)
    elsewhere.established()
    client.close()
    until(lambda: ten_ports.status.tunnels == 0)
    ten_ports.after_test()


@pytest.mark.slow
def test_no_descriptor_left_is_refused_with_a_reason_and_the_others_go_on(scarce, offload):
    client = scarce.scripted(offload=offload)
    until(lambda: not scarce.status.flows)
    before = scarce.dropped("no_descriptors")
    live = [Connection(scarce, client, 4) for _ in range(45)]  # 90 of 120: globex has its share of 30
    for c in live:
        c.established()
    more = Connection(scarce, client, 4)
    more.client.sends("S")
    assert str(more.client.segment().flags) == "RA"
    assert scarce.dropped("no_descriptors") == before + 1
    live[3].client.sends("PA", b"alive")
    assert live[3].origin.reads(5) == b"alive"
    live[3].client.sends("RA")  # the flow is remembered for its last packets; its sockets are closed
    live[3].origin.awaits("R")
    until(lambda: len(live[3].records) == 1)
    again = Connection(scarce, client, 4)
    again.established()
    client.close()
    until(lambda: not scarce.status.flows)
    scarce.after_test()

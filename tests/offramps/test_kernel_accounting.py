"""What conntrack counts and what the control API says: the same flows, the same bytes."""

from __future__ import annotations

import random
import socket

import pytest
from scapy.layers.inet import TCP

from proxy.device.interface import set_sysctl
from proxy.flow.flow import PROTOCOL_NUMBERS, address_text
from tests.netns import needs_root
from tests.offramps.kernel_scene import (
    CLIENT,
    FAMILIES,
    KINDS,
    ORIGIN,
    SILENT,
    ask,
    echo,
    entries,
    read_all,
    reset,
    scene,
    transfer,
    unsent,
)
from tests.packets import network
from tests.running import until

pytestmark = [pytest.mark.netns, pytest.mark.slow, needs_root]


@pytest.fixture(params=KINDS)
def stage(request):
    with scene(request.param) as made:
        made.edge.run(
            set_sysctl, "net/netfilter/nf_conntrack_acct", 1
        )  # of its own it asks for that with on-ramps only
        yield made


def of_kernel(stage):
    """Bytes both ways of each connection, by protocol, addresses and ports."""
    found = {}
    for entry in entries(stage.edge):
        size = 4 if len(entry.original) < 16 else 16
        ports = entry.original[2 * size :]
        key = (entry.protocol, address_text(entry.original[:size]), int.from_bytes(ports[:2], "big"),
               address_text(entry.original[size : 2 * size]), int.from_bytes(ports[2:], "big"))  # fmt: skip
        found[key] = (entry.original_packets, entry.original_octets, entry.reply_packets, entry.reply_octets)
    return found


def of_proxy(stage):
    """The same, by the control API."""
    return {
        (PROTOCOL_NUMBERS[flow.protocol], flow.src, flow.src_port, flow.dst, flow.dst_port): (
            flow.total.client_packets, flow.total.client_bytes, flow.total.origin_packets, flow.total.origin_bytes
        )
        for flow in stage.proxy.live()
    }  # fmt: skip


def agree(key, kernel, proxy):
    """Whether two counts are of the same packets. What arrives in one piece (GRO) is one packet for conntrack; for a
    tunnel it is cut, and each piece has headers of its own. Of an on-ramp conntrack's count is the only one."""
    headers = (20 if ":" not in key[1] else 40) + 32 if key[0] == 6 else 0
    client, origin = ((proxy[at] - kernel[at], proxy[at + 1] - kernel[at + 1]) for at in (0, 2))  # packets and bytes
    return all(octets == packets * headers for packets, octets in (client, origin))


def test_the_same_flows_and_bytes_during_and_after_a_random_load(stage):
    draw = random.Random(11)
    servers = {version: echo(stage, version) for version in (4, 6)}
    pairs, sizes, senders = [], {}, []
    for _ in range(60):
        step = draw.choice(["connect", "transfer", "datagrams", "ping", "close"])
        version = draw.choice([4, 6])
        if step == "connect" or not pairs:
            pairs.append(stage.pair(version))
            sizes[pairs[-1][0].getsockname()[1]] = [0, 0]
        elif step == "transfer":
            pair, way, size = draw.choice(pairs), draw.randrange(2), draw.randrange(1, 300_000)
            transfer(pair[way], pair[1 - way], size)
            sizes[pair[0].getsockname()[1]][way] += size
        elif step == "datagrams":
            senders.append(stage.sock(stage.client, version, socket.SOCK_DGRAM))
            for _ in range(draw.randrange(1, 9)):
                ask(senders[-1], servers[version], b"x" * draw.randrange(1, 1400))
        elif step == "ping":
            stage.run("ping", f"-{version}", "-c", 2, "-i", "0.01", "-W", 9, ORIGIN[version])
        else:
            client, origin = pairs.pop(draw.randrange(len(pairs)))
            client.close()
            assert read_all(origin) == (0, "end")
            origin.close()

    def is_same():
        if any(unsent(sock) for pair in pairs for sock in pair):
            return False
        kernel, proxy = of_kernel(stage), of_proxy(stage)
        return proxy.keys() <= kernel.keys() and all(agree(key, kernel[key], proxy[key]) for key in proxy)

    until(is_same)
    ports = {pair[0].getsockname()[1] for pair in pairs}
    live = {flow.src_port: flow for flow in stage.proxy.live(protocol="tcp") if flow.state != "closed"}
    assert live.keys() == ports
    udp = {flow.src_port for flow in stage.proxy.live(protocol="udp")}
    assert udp == {sock.getsockname()[1] for sock in senders}
    for number, (client, origin) in enumerate(pairs):
        (reset if number % 2 else socket.socket.close)(client)
        read_all(origin)
        origin.close()
    until(lambda: not stage.proxy.live(protocol="tcp"))
    until(lambda: not [key for key in of_kernel(stage) if key[0] == 6])
    records = {record.src_port: record.total for record in stage.proxy.ended(protocol="tcp")}
    moved = {port: [total.client_payload_bytes, total.origin_payload_bytes] for port, total in records.items()}
    assert moved == sizes


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_totals_are_those_of_conntrack_to_the_byte(stage, version):
    client, origin = stage.pair(version)
    transfer(client, origin, 123_457)
    transfer(origin, client, 76_543)
    until(lambda: not unsent(client) and not unsent(origin))

    def is_same():
        ((key, kernel),) = [item for item in of_kernel(stage).items() if item[0][0] == 6]
        return agree(key, kernel, of_proxy(stage)[key])

    until(is_same)


def same_port(stage, version):
    """Connections that each end by a reset, of either side in turn: nothing of one is counted as another's."""
    listener, expected = stage.listen(version), []
    for number in range(12):
        client = stage.connect(version, listener.getsockname()[1], source_port=23_457)
        origin = stage.accept(listener)
        transfer(client, origin, 1000 + number)
        until(lambda client=client: not unsent(client))
        first, second = (client, origin) if number % 3 else (origin, client)
        reset(first)
        assert read_all(second) == (0, "ConnectionResetError")
        second.close()
        expected.append((("client_reset", "ShAR") if number % 3 else ("origin_reset", "ShAr"), 1000 + number))
    records = until(lambda: len(found := stage.proxy.ended(src_port=23_457)) >= 12 and found)
    found = [((each.close_reason, each.history), each.total.client_payload_bytes) for each in records]
    assert sorted(found, key=lambda each: each[1]) == expected
    packets = [(each.total.client_packets, each.total.origin_packets) for each in records]
    assert all(3 <= up <= 6 and 2 <= down <= 6 for up, down in packets), packets


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_connections_from_the_same_port_at_once_are_flows_of_their_own(stage, version):
    same_port(stage, version)


def test_the_same_where_a_hook_decides_late():
    """What conntrack tells of the earlier connection comes while the later one is held."""
    with scene("interface", more="hooks: tests.applications:DecidesLate\n") as stage:
        same_port(stage, 4)


@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
def test_the_answer_to_a_syn_that_is_refused_is_counted(stage, version):
    for _ in range(20):
        with pytest.raises(ConnectionRefusedError):
            stage.connect(version, 9)
    records = until(lambda: len(found := stage.proxy.ended(dst_port=9)) == 20 and found)
    size = {4: (1, 60, 1, 40), 6: (1, 80, 1, 60)}[version]
    assert {
        (each.total.client_packets, each.total.client_bytes, each.total.origin_packets, each.total.origin_bytes)
        for each in records
    } == {size}


def test_a_reset_of_an_earlier_connection_does_not_end_a_later_one():
    """Two packets of a host's that did not hear of the end of a connection, between them a SYN from the same port."""
    with scene("connected") as stage:
        raw = stage.keep(stage.client.run(socket.socket, FAMILIES[4], socket.SOCK_RAW, socket.IPPROTO_RAW))

        def send(flags, seq):
            segment = TCP(sport=24_500, dport=80, flags=flags, seq=seq)
            raw.sendto(bytes(network(4, CLIENT[4], SILENT[4]) / segment), (SILENT[4], 0))

        send("S", 1_000_000)
        send("R", 5)
        (flow,) = until(lambda: [flow for flow in stage.proxy.live(dst=SILENT[4]) if flow.total.client_packets == 2])
        assert (flow.state, flow.history) == ("new", "S")
        send("R", 1_000_001)
        (record,) = until(lambda: stage.proxy.ended(dst=SILENT[4]))
        assert (record.close_reason, record.history) == ("client_reset", "SR")


def test_datagrams_of_a_flow_that_was_idle_for_too_long_are_a_new_flow_with_a_record():
    with scene("interface", more="timeouts: {udp_idle_s: 1, udp_unreplied_s: 1}\n") as stage:
        client, server = stage.sock(stage.client, 4, socket.SOCK_DGRAM), stage.listen(4, kind=socket.SOCK_DGRAM)
        port = server.getsockname()[1]

        def exchange():
            client.sendto(b"?", (ORIGIN[4], port))
            server.sendto(*server.recvfrom(100))
            assert client.recv(100) == b"?"

        exchange()
        until(lambda: not entries(stage.edge))  # conntrack deletes expired ones at the latest when it is read
        (record,) = until(lambda: stage.proxy.ended(dst_port=port))
        assert record.close_reason == "client_idle_timeout"
        exchange()
        assert until(lambda: stage.proxy.live(dst_port=port))

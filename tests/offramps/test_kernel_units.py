"""Parts of the kernel off-ramp by themselves: numbers of connections, copies of headers, rules, the way back."""

from __future__ import annotations

import os
import socket
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.layers.inet import ICMP, TCP, UDP
from scapy.packet import Raw

from proxy.device import routing
from proxy.device.routing import RT_TABLE_MAIN, Route, Rule
from proxy.errors import DropReason
from proxy.flow.path import Path
from proxy.flow.tracking import Direction, acknowledged, sequence
from proxy.kernel import facts
from proxy.kernel.exit_pump import ExitPump
from proxy.kernel.ruleset import Way
from proxy.kernel.sites import Sites
from proxy.offramps.accounting import Accounting
from proxy.offramps.conntrack_limit import PER_FREE_ENTRY
from proxy.offramps.exit import InterfaceRamp
from proxy.offramps.forwarded import ForwardedFlow
from proxy.offramps.kernel import KernelOffRamp
from proxy.packet.forward import IPV6_MIN_MTU, forward
from proxy.packet.observed import Observed, observe
from proxy.packet.plane import flow_key
from proxy.settings import Settings
from proxy.settings.egress import Egress, egress_of
from proxy.settings.model import TenantSettings
from proxy.settings.sites import NetworkSettings
from proxy.wire.ctnetlink import Entry
from proxy.wire.ip import TCP as TCP_NUMBER
from proxy.wire.ip import IPPacket
from tests.netns import Namespace, needs_root
from tests.offramps.test_kernel_table import WAYS
from tests.packets import network, parsed, transport_packets

WRAP = 1 << 32
LARGEST = 3 * WRAP  # of a simulated connection: its numbers wrap three times
words = st.integers(0, WRAP - 1)


@given(words, st.integers(0, LARGEST), st.integers(0, WRAP // 2 - 1), st.booleans())
def test_delivered_is_what_arrived_however_often_the_numbers_wrap(initial, size, repeated, has_ended):
    """`repeated`: bytes that were sent again, which the packets have carried too."""
    direction = Direction()
    direction.initial = initial
    reached = (initial + 1 + size) % WRAP
    if has_ended:
        direction.final = reached
        assert direction.delivered_without_acks(size + repeated) == size
        reached = (reached + 1) % WRAP  # the FIN is acknowledged as one byte
    assert direction.delivered(reached, size + repeated) == size


@given(words, st.one_of(st.none(), words), st.one_of(st.none(), words), st.integers(-100, LARGEST))
def test_delivered_is_never_more_than_the_packets_can_have_carried(initial, reached, final, most):
    for known in (initial, None):
        direction = Direction()
        direction.initial, direction.final = known, final
        for count in (direction.delivered(reached, most), direction.delivered_without_acks(most)):
            assert 0 <= count <= max(0, most)


def test_without_any_number_nothing_is_known_to_have_arrived():
    direction = Direction()
    direction.initial = 7
    assert direction.delivered(None, 5000) == 0


@given(st.binary(max_size=14))
def test_numbers_of_a_packet_that_was_none(last):
    if len(last) < 10:
        assert (acknowledged(last), sequence(last)) == (None, None)
    else:
        assert sequence(last) == int.from_bytes(last[:4], "big")
        assert acknowledged(last) == (int.from_bytes(last[4:8], "big") if last[9] & 0x10 else None)


@given(st.binary(max_size=200))
def test_copies_of_garbage_are_nothing_or_stay_within_it(data):
    seen = observe(data)
    if isinstance(seen, Observed):
        assert len(seen.key) in (12, 36)
        assert len(seen.last) == 12
        assert seen.payload >= 0
    elif seen is not None:
        assert isinstance(seen, IPPacket)
        assert seen.l4 + 8 <= seen.end == len(data)


@given(transport_packets(("tcp",)), st.integers(0, 200))
def test_a_copy_tells_what_the_packet_would(packet, cut):
    whole = parsed(packet)
    seen = observe(packet[: max(len(packet) - cut, whole.l4 + 20)])
    assert isinstance(seen, Observed)
    assert seen.key == flow_key(packet, whole)
    assert seen.last == packet[whole.l4 + 4 : whole.l4 + 16]
    header = (packet[whole.l4 + 12] >> 4) * 4
    assert seen.payload == len(packet) - whole.l4 - header


@given(transport_packets(), st.data())
def test_a_damaged_copy_raises_nothing(packet, data):
    damaged = bytearray(packet)
    for _ in range(data.draw(st.integers(1, 4))):
        damaged[data.draw(st.integers(0, len(damaged) - 1))] = data.draw(st.integers(0, 255))
    seen = observe(bytes(damaged[: data.draw(st.integers(0, len(damaged)))]))
    assert seen is None or isinstance(seen, Observed | IPPacket)


@pytest.mark.netns
@needs_root
def test_rules_and_routes_are_those_that_were_made():
    namespace = Namespace()
    try:
        lo = namespace.run(socket.if_nametoindex, "lo")
        for version, prefix in ((4, "192.0.2.0/24"), (6, "2001:db8::/32")):
            rules = [Rule(version, 60, 0x6F78_0001, 0x6F78_0001, 0xFFFF_FFFF, "lo"), Rule(version, 61, 77, 9, 0xFF),
                     Rule(version, 62, RT_TABLE_MAIN, interface="eth7")]  # fmt: skip
            namespace.run(routing.add_rules, rules)
            assert [rule for rule in namespace.run(lambda: list(routing.rules())) if rule in rules] == rules
            namespace.run(routing.delete_rules, rules)
            assert not [rule for rule in namespace.run(lambda: list(routing.rules())) if rule in rules]
            namespace.run(routing.delete_rules, rules)  # gone is no error
            routes = [Route(version, prefix, 0x6F78_0001, lo, metric=5),
                      Route(version, prefix, 0x6F78_0001, None, metric=routing.LAST_RESORT_METRIC)]  # fmt: skip
            namespace.run(routing.set_routes, routes)
            namespace.run(routing.set_routes, routes)  # replaced
            found = namespace.run(lambda version=version: list(routing.routes(version)))
            assert [route for route in found if route.table == 0x6F78_0001] == routes
            namespace.run(routing.delete_routes, routes)
            namespace.run(routing.delete_routes, routes)
            found = namespace.run(lambda version=version: list(routing.routes(version)))
            assert not [route for route in found if route.table == 0x6F78_0001]
        with pytest.raises(OSError, match="Route"):
            namespace.run(routing.set_routes, [Route(4, "192.0.2.0/24", 77, 4242)])
        assert socket.inet_aton("127.0.0.1") in namespace.run(routing.own_addresses)
    finally:
        namespace.close()


MTU = 1400
FLAGS = ["S", "A", "PA", "FA", "R", "SA", "UA"]


@given(st.lists(st.tuples(st.sampled_from([4, 6]), st.sampled_from(["tcp", "udp", "icmp"]), st.sampled_from(FLAGS),
                          st.integers(0, 1600), st.booleans(), st.booleans()), min_size=1, max_size=12))  # fmt: skip
def test_the_pump_takes_what_its_readable_twin_would_send_on(specs):
    """Plain packets of memoised flows that fit go on unchanged; the others are looked at."""
    near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    near.setblocking(False)
    sent, slow, expected, looked_at = [], [], [], []
    paths, forwards = {}, {}
    try:
        pump = ExitPump(near.fileno(), 0, paths, forwards, lambda buffer, end: slow.append(bytes(buffer[:end])))
        for place, (version, protocol, flags, size, is_known, is_cut) in enumerate(specs):
            packet = _packet(version, protocol, flags, size, place)
            if is_cut and version == 4:
                packet = packet[:6] + b"\x20" + packet[7:]  # more fragments: nobody looks at the checksum here
            read = None if is_cut and version == 4 else parsed(packet)
            if is_known and protocol != "icmp":
                path = Path()
                path.send, path.mtu = lambda data: sent.append(bytes(data)), MTU
                l4 = 20 if version == 4 else 40
                key = packet[12 if version == 4 else 8 : l4] + packet[l4 : l4 + 4]
                (paths if protocol == "tcp" else forwards)[key] = path
            plain = is_known and protocol != "icmp" and len(packet) <= MTU
            plain = plain and (not set(flags) & set("SFR") if protocol == "tcp" else read is not None)
            (expected if plain else looked_at).append(packet)
            if plain and read is not None:
                assert forward(bytearray(packet), read, carrier(1, b"exit"), carrier(0, None), 1) == [packet]
            far.send(packet)
        for _ in specs:
            pump.ready(0)
        assert (sent, slow) == (expected, looked_at)
        assert sum(path.packets for path in (*paths.values(), *forwards.values())) == len(expected)
        assert sum(path.octets for path in (*paths.values(), *forwards.values())) == sum(map(len, expected))
        assert pump.packets == len(specs)
        assert pump.octets == sum(map(len, expected + looked_at))
    finally:
        near.close()
        far.close()


def _packet(version, protocol, flags, size, place):
    head = network(version, "192.0.2.1" if version == 4 else "2001:db8::1")
    ports = {"sport": 1000 + place, "dport": 80}
    layer = {"tcp": TCP(**ports, flags=flags), "udp": UDP(**ports), "icmp": ICMP()}[protocol]
    if protocol == "icmp" and version == 6:
        layer = Raw(bytes([128, 0, 0, 0, 0, 1, 0, 1]))
    return bytes(head / layer / Raw(bytes(size)))


def carrier(kernel_hops, exits):
    """As much of one as `forward` looks at."""
    return SimpleNamespace(mtu=MTU, header_bytes=0, kernel_hops=kernel_hops, exit=exits, can_open_flows=exits is None)


@given(st.integers(IPV6_MIN_MTU - 200, 9000), st.booleans())
def test_ipv6_that_came_in_fragments_leaves_by_the_kernel_in_fragments(size, came_in_fragments):
    packet = _packet(6, "udp", "", size, 1)
    read = parsed(packet)
    read.dont_fragment = not came_in_fragments
    exits = SimpleNamespace(mtu=65_535, header_bytes=0, kernel_hops=1, exit=os.write, can_open_flows=False)
    pieces = forward(bytearray(packet), read, carrier(0, None), exits, 7)
    if not came_in_fragments:
        assert pieces == [packet]
        return
    assert all(len(piece) <= IPV6_MIN_MTU for piece in pieces)
    skipped = 40 if len(pieces) == 1 else 48
    assert b"".join(piece[skipped:] for piece in pieces) == packet[40:]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_ipv6_that_the_kernel_has_joined_is_cut_for_a_tunnel_unless_its_sender_listens(protocol):
    packet = _packet(6, protocol, "A", 3000, 1)
    result = forward(bytearray(packet), parsed(packet), carrier(1, os.write), carrier(0, None), 7)
    if protocol == "tcp":
        assert result is DropReason.TOO_BIG
    else:
        assert b"".join(piece[48:] for piece in result) == packet[40:]
        assert all(len(piece) <= MTU for piece in result)


@pytest.mark.parametrize(
    ("tenant", "network_says", "expected"),
    [
        ({}, None, Egress()),
        ({"snat": ["192.0.2.1"]}, None, Egress(ipv4="192.0.2.1")),
        ({"snat": ["2001:db8::1", "192.0.2.1"], "ports": "1-2", "egress": "a"}, {},
         Egress("a", "192.0.2.1", "2001:db8::1", "1-2")),
        ({"snat": ["192.0.2.1"], "ports": "1-2", "egress": "a"},
         {"snat": ["192.0.2.9"], "ports": "3-4", "egress": "b"}, Egress("b", "192.0.2.9", None, "3-4")),
        ({"snat": ["192.0.2.1", "2001:db8::1"]}, {"snat": ["192.0.2.9"]}, Egress(ipv4="192.0.2.9")),
    ],
)  # fmt: skip
def test_a_network_says_what_its_tenant_does_not(tenant, network_says, expected):
    own = None if network_says is None else NetworkSettings(**network_says)
    assert egress_of(TenantSettings(**tenant), own) == expected


def test_a_full_table_of_connections_takes_no_more(monkeypatch):
    """One tenant may hold 64 connections for each one that is left for everybody."""
    settings = Settings(tenants={"acme": TenantSettings()}, onramps=[], control="/nonexistent/control")
    tenant = SimpleNamespace(name="acme", count=0)
    offramp = KernelOffRamp(settings, {"acme": tenant}, SimpleNamespace())
    way = Way(1, "oxk0", 1, Egress(ipv4="192.0.2.1"))
    exits = object()
    offramp.ways[exits] = way
    monkeypatch.setattr(facts, "conntrack_room", lambda: 3)
    offramp.tick(0.0)

    def begin():
        flow = SimpleNamespace(egress=exits, tenant=tenant, protocol="tcp", key=b"", carrier=None, destination=bytes(4))
        return offramp.begin(flow)

    outcomes = [begin() for _ in range(10)]
    assert outcomes[0] is None
    assert outcomes[-1] is DropReason.CONNTRACK_FULL
    assert outcomes.count(None) <= 3
    tenant.count = PER_FREE_ENTRY * 1000
    monkeypatch.setattr(facts, "conntrack_room", lambda: 999)
    offramp.tick(1.0)
    assert begin() is DropReason.CONNTRACK_FULL
    monkeypatch.setattr(facts, "conntrack_room", lambda: 1001)
    offramp.tick(2.0)
    assert begin() is None


def test_room_leaves_a_reserve(monkeypatch):
    values = {"nf_conntrack_count": "900", "nf_conntrack_max": "1000"}
    monkeypatch.setattr(facts.Path, "read_text", lambda self: values[self.name])
    assert facts.conntrack_room() == 50
    values["nf_conntrack_count"] = "990"
    assert facts.conntrack_room() == 0
    values["nf_conntrack_max"] = "garbage"
    assert facts.conntrack_room() == facts.UNKNOWN_ROOM


def test_sites_are_on_ramps_that_are_no_uplinks_and_the_longest_prefix_says_which():
    zone, names = WAYS[-2].zone, {1: "p0", 2: "p1", 3: "p2", 4: "eth0"}
    main = [
        Route(4, "10.0.0.0/8", RT_TABLE_MAIN, 1), Route(4, "10.5.0.0/16", RT_TABLE_MAIN, 2, b"\x0a\x05\x00\x01", 7),
        Route(4, "10.5.6.0/24", RT_TABLE_MAIN, 3), Route(6, "fd05::/64", RT_TABLE_MAIN, 2),
        Route(6, "fe80::/64", RT_TABLE_MAIN, 2), Route(4, "0.0.0.0/0", RT_TABLE_MAIN, 4),
    ]  # fmt: skip
    sites = Sites(WAYS, main, names)
    assert [sites.complete(way).sites for way in WAYS[-2:]] == [("p0", "p1"), ("p2",)]
    assert sites.routes(zone) == [*main[:2], main[3]]
    places = {"10.1.1.1": "p0", "10.5.6.7": "p1", "192.0.2.1": None}
    assert {text: sites.behind(zone, socket.inet_aton(text)) for text in places} == places
    assert sites.behind(zone, socket.inet_pton(socket.AF_INET6, "fd05::9")) == "p1"
    assert sites.behind(zone, socket.inet_pton(socket.AF_INET6, "fe80::9")) is None
    assert sites.behind(1, socket.inet_aton("10.1.1.1")) is None
    assert sites.carriers() == {"p0", "p1", "p2", "eth0"}  # eth1, by which a network leaves, is not there
    uplink = Sites(WAYS, [*main, Route(4, "0.0.0.0/0", RT_TABLE_MAIN, 2, metric=9)], names)
    assert uplink.complete(WAYS[-2]).sites == ("p0",)
    assert uplink.behind(zone, socket.inet_aton("10.5.6.7")) == "p0"


def test_an_event_of_conntrack_that_comes_after_the_logged_end_still_gives_the_totals():
    key, marked = b"key", 3
    flow = SimpleNamespace(
        is_recorded=False, is_ended=True, protocol="tcp", history="Sr", handler=ForwardedFlow.__new__(ForwardedFlow),
        client_path=SimpleNamespace(packets=0, octets=0), origin_path=SimpleNamespace(packets=0, octets=0),
    )  # fmt: skip
    ramp = InterfaceRamp.__new__(InterfaceRamp)
    ramp.flows, ramp.cached_decisions = {TCP_NUMBER: {key: flow}}, SimpleNamespace(open_pending=lambda: None)
    entry = Entry(TCP_NUMBER, key, key, 7, marked, 0, 0, 1, 60, 1, 40)
    accounting = Accounting.__new__(Accounting)
    accounting._ramps, accounting._zones, accounting._awaited = {marked: ramp}, {ramp: 7}, {}
    accounting._events = SimpleNamespace(read=lambda most: [(None, entry)])
    accounting._destroyed(0)
    paths = [(path.packets, path.octets) for path in (flow.client_path, flow.origin_path)]
    assert paths == [(1, 60), (1, 40)]

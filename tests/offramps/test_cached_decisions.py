"""Further connections to a place that was decided: given back at once, entered later, within all limits."""

from __future__ import annotations

import os
import socket
import struct
from types import SimpleNamespace

import pytest
from scapy.layers.inet import TCP
from scapy.packet import Raw

from proxy.errors import DropReason
from proxy.flow.keys import reverse_key
from proxy.flow.tenant import Tenant
from proxy.offramps.cached_decisions import MAX_PENDING, ExitDecisions, RampDecisions
from proxy.packet.plane import flow_key
from proxy.settings.model import Limits, TenantSettings
from proxy.wire.virtio import NEEDS_CSUM, NO_OFFLOAD
from tests.netns import needs_root
from tests.offramps.kernel_scene import ORIGIN, entries, scene
from tests.packets import decode, network, parsed, recomputed
from tests.running import until

CLIENT, FAR = {4: "10.1.0.2", 6: "fd01::2"}, {4: "10.2.0.2", 6: "fd02::2"}


class Place:
    """An on-ramp that has let one connection out, to port 80; what is written to its device can be read."""

    def __init__(self, version=4, *, flows=1000, new_flows_per_s=1000):
        limits = Limits(flows=flows, new_flows_per_s=new_flows_per_s)
        self.tenant = Tenant("acme", TenantSettings(limits=limits))
        self.version, self.asked, self.room, self.opened = version, False, True, []
        self.read_fd, self.write_fd = os.pipe2(os.O_NONBLOCK)
        self.ramp = SimpleNamespace(
            header_bytes=10, tenant=self.tenant, network=self.tenant.networks["default"], flows={},
            owns=lambda address: address == socket.inet_pton(_family(version), CLIENT[version]),
        )  # fmt: skip
        plane = SimpleNamespace(asks=lambda: self.asked, open_sent=self._open)
        self.decisions = RampDecisions(self.ramp, self.write_fd, plane, lambda tenant: self.room)
        self.decisions.learn(self.key(self.packet(sport=1000)), "192.0.2.1")

    def _open(self, ramp, protocol, syn, egress):
        assert (ramp, protocol, egress) == (self.ramp, 6, self.ramp)
        self.opened.append(syn)

    def packet(self, *, sport=1001, dport=80, flags="S", source=None, payload=b"", options=(("MSS", 1460),)):
        made = network(self.version, source or CLIENT[self.version], FAR[self.version])
        made /= TCP(sport=sport, dport=dport, flags=flags, seq=7, options=list(options))
        return bytearray(NO_OFFLOAD + bytes(made / Raw(payload) if payload else made))

    def key(self, buffer):
        return flow_key(buffer, parsed(buffer, 10))

    def take(self, buffer):
        return self.decisions.take(buffer, len(buffer))

    def given_back(self):
        try:
            return decode(os.read(self.read_fd, 9000)[10:])
        except BlockingIOError:
            return None

    def close(self):
        os.close(self.read_fd)
        os.close(self.write_fd)


def _family(version):
    return socket.AF_INET if version == 4 else socket.AF_INET6


@pytest.fixture
def place():
    made = Place()
    yield made
    made.close()


@pytest.mark.parametrize("version", [4, 6])
def test_second_syn_to_a_decided_place_is_given_back_with_the_hop_that_it_lost(version):
    place = Place(version)
    buffer = place.packet()
    key, before = place.key(buffer), decode(bytes(buffer[10:]))
    hop = "ttl" if version == 4 else "hlim"
    assert place.take(buffer)
    after = place.given_back()
    assert getattr(after, hop) == getattr(before, hop) + 1
    assert recomputed(bytes(after)) == bytes(after)
    assert bytes(after[TCP]) == bytes(before[TCP])
    assert place.tenant.count == 1  # it counts from now on
    assert not place.opened
    place.decisions.open_pending()
    [syn] = place.opened
    assert (syn.key, syn.egress_ip, syn.octets) == (key, "192.0.2.1", len(buffer) - 10)
    assert int.from_bytes(syn.last[:4], "big") == 7
    assert place.tenant.count == 0  # whoever opens the flow counts it
    place.close()


@pytest.mark.parametrize(
    "words",
    [
        {"dport": 81},
        {"flags": "SA"},
        {"flags": "A"},
        {"flags": "SF"},
        {"payload": b"early"},
        {"source": "10.1.0.3"},
    ],
    ids=str,
)
def test_whatever_is_not_the_same_again_is_looked_at(place, words):
    assert not place.take(place.packet(**words))
    assert place.given_back() is None
    assert place.take(place.packet())


def test_segment_with_a_wrong_checksum_is_looked_at_but_a_partial_one_is_vouched_for(place):
    buffer = place.packet()
    buffer[-1] ^= 1
    assert not place.take(bytearray(buffer))
    buffer[0] = NEEDS_CSUM
    assert not place.take(bytearray(buffer))  # of something else than TCP's field
    buffer[6:10] = struct.pack("<HH", 20, 16)
    assert place.take(buffer)


def test_fragment_and_wrong_length_are_looked_at(place):
    fragment, long = place.packet(), place.packet()
    fragment[10 + 6] = 0x20
    long += b"x"
    assert not place.take(fragment)
    assert not place.take(long)
    assert not place.take(bytearray(20))


def test_what_somebody_is_asked_about_is_looked_at(place):
    place.asked = True
    assert not place.take(place.packet())
    place.asked = False
    assert place.take(place.packet())


def test_syn_of_a_flow_that_is_there_or_begins_is_looked_at(place):
    assert place.take(place.packet(sport=5))
    assert not place.take(place.packet(sport=5))
    place.ramp.flows[6] = {place.key(place.packet(sport=6)): object()}
    assert not place.take(place.packet(sport=6))


def test_limits_hold():
    place = Place(flows=2, new_flows_per_s=1000)
    assert [place.take(place.packet(sport=port)) for port in range(2000, 2004)] == [True, True, False, False]
    place.room = False
    place.tenant.count = 0
    assert not place.take(place.packet(sport=3000))
    place.close()
    slow = Place(new_flows_per_s=3)
    assert sum(slow.take(slow.packet(sport=port)) for port in range(2000, 2010)) == 3
    slow.close()


def test_nothing_is_known_after_a_look_around_nor_where_a_network_has_routes(place):
    place.decisions.forget()
    assert not place.take(place.packet())
    place.ramp.network.routes = object()
    place.decisions.learn(place.key(place.packet()), None)
    assert not place.take(place.packet())


def test_many_are_entered_without_being_asked(place):
    for port in range(2000, 2000 + MAX_PENDING):
        assert place.take(place.packet(sport=port))
    assert len(place.opened) == MAX_PENDING


def test_device_that_takes_nothing_is_counted(place):
    os.close(place.write_fd)
    place.write_fd = os.open(os.devnull, os.O_RDONLY)
    broken = RampDecisions(place.ramp, place.write_fd, place.decisions._plane, lambda tenant: True)
    broken.learn(place.key(place.packet()), None)
    buffer = place.packet()
    assert broken.take(buffer, len(buffer))
    assert place.tenant.drops[DropReason.KERNEL_IP] == 1
    assert place.tenant.count == 0


class Through:
    """A tunnel, with virtio-net headers or without, that has let one connection out; what goes on is in `sent`."""

    def __init__(self, header_bytes=10, version=4, *, mtu=1500, flows=1000):
        self.tenant = Tenant("acme", TenantSettings(limits=Limits(flows=flows, new_flows_per_s=1000)))
        network_ = self.tenant.networks["default"]
        self.v, self.version, self.sent, self.opened = header_bytes, version, [], []
        self.way = SimpleNamespace(
            mtu=65_535, flows={}, network=network_, send=lambda data: self.sent.append(bytes(data))
        )
        self.tunnel = SimpleNamespace(
            header_bytes=header_bytes, mtu=mtu, tenant=self.tenant, network=network_, flows={},
            owns=lambda address: address == socket.inet_pton(_family(version), CLIENT[version]),
        )  # fmt: skip
        plane = SimpleNamespace(asks=lambda: False, open_sent=lambda *words: self.opened.append(words))
        self.decisions = ExitDecisions(self.way, plane, lambda tenant: True)
        self.decisions.learn(self.key(self.packet(sport=1000)), "192.0.2.1")

    def packet(self, *, sport=1001, mss=1440, hops=64, options=None):
        made = network(self.version, CLIENT[self.version], FAR[self.version])
        setattr(made, "ttl" if self.version == 4 else "hlim", hops)
        made /= TCP(sport=sport, dport=80, flags="S", seq=7, options=[("MSS", mss)] if options is None else options)
        return bytearray(NO_OFFLOAD[: self.v] + bytes(made))

    def key(self, buffer):
        return flow_key(buffer, parsed(buffer, self.v))

    def take(self, buffer):
        return self.decisions.take(self.tunnel, buffer, len(buffer))


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("header_bytes", [0, 10])
def test_second_syn_of_a_tunnel_goes_on_as_it_is_and_is_a_flow_at_once(header_bytes, version):
    through = Through(header_bytes, version)
    buffer = through.packet()
    before = bytes(buffer)
    assert through.take(buffer)
    assert through.sent == [before]
    [(tunnel, protocol, syn, egress)] = through.opened
    assert (tunnel, protocol, egress) == (through.tunnel, 6, through.way)
    assert (syn.key, syn.egress_ip, syn.octets) == (
        through.key(buffer),
        "192.0.2.1",
        len(buffer) - header_bytes,
    )


@pytest.mark.parametrize("words", [{"mss": 1461}, {"hops": 1}, {"options": []}, {"options": [("NOP", None)]}], ids=str)
def test_syn_of_a_tunnel_that_is_to_be_changed_or_refused_is_looked_at(words):
    through = Through()
    assert not through.take(through.packet(**words))
    assert not through.sent
    assert through.take(through.packet())


def test_syn_of_a_tunnel_is_looked_at_if_its_header_is_wrong_or_its_answers_are_anothers():
    through = Through()
    wrong = through.packet()
    wrong[10 + 10] ^= 1
    assert not through.take(wrong)
    through.way.flows[6] = {reverse_key(through.key(through.packet())): object()}
    assert not through.take(through.packet())
    assert through.take(through.packet(sport=2000))


def test_limits_hold_for_tunnels():
    through = Through(flows=0)
    assert not through.take(through.packet())


@pytest.mark.netns
@needs_root
@pytest.mark.parametrize("kind", ["connected", "offload", "interface"])
@pytest.mark.parametrize("version", [4, 6])
def test_connections_to_one_place_are_flows_like_all_others(version, kind):
    with scene(kind, tenant="limits: {flows: 25}") as stage:
        opened = "Sh" if kind == "interface" else "ShA"  # acknowledgements stay the kernel's there
        listener = stage.listen(version)
        port = listener.getsockname()[1]
        pairs = []
        for _ in range(25):
            client = stage.connect(version, port)
            pairs.append((client, stage.accept(listener)))
        flows = until(lambda: [f for f in stage.proxy.live() if f.history == opened][24:] and stage.proxy.live())
        assert len(flows) == 25
        assert {(f.state, f.offramp, f.level, f.dst) for f in flows} == {
            ("established", "kernel", "packet", ORIGIN[version])
        }
        assert all(f.origin_tcp_ms is not None and f.egress_ip for f in flows)
        with pytest.raises(ConnectionRefusedError):
            stage.connect(version, port)
        counted = {entry.original[-4:-2]: entry.original_packets for entry in entries(stage.edge)}
        if kind != "interface":  # nobody but us counts
            counted = dict.fromkeys(counted, 2)
        assert all(counted[f.src_port.to_bytes(2, "big")] == f.total.client_packets for f in stage.proxy.live())
        for client, origin in pairs:
            client.close()
            assert origin.recv(1) == b""  # the client's end passes first
            origin.close()
        ended = until(lambda: (past := stage.proxy.ended()) and len(past) == 25 and past)
        assert {(f.history, f.close_reason, f.conn_state) for f in ended} == {("ShAFf", "client_closed", "SF")}

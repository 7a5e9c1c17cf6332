"""Probes inside tunnels, penalties, and routes that change under live flows, in a real proxy."""

from __future__ import annotations

import socket
import threading

import msgspec
import pytest
from scapy.layers.inet import ICMP, UDP
from scapy.layers.inet6 import ICMPv6EchoReply, ICMPv6EchoRequest
from scapy.packet import Raw

from proxy.control.client import ControlError
from proxy.control.schema import RoutesChange
from proxy.settings.sites import Route
from tests.netns import needs_root
from tests.onramps.wan import wide
from tests.packets import network
from tests.running import until

pytestmark = [pytest.mark.netns, needs_root]


@pytest.fixture
def wan():
    with wide() as stage:
        yield stage


def datagram(src, dst, payload=b"data", sport=4000, dport=4001):
    return bytes(network(6 if ":" in src else 4, src, dst) / UDP(sport=sport, dport=dport) / Raw(payload))


class Answering:
    """A site that answers probes by itself, and keeps what else arrives."""

    def __init__(self, wan, name):
        self.site = wan.site(name)
        self.site.sock.settimeout(0.05)
        self.packets, self.is_mute, self.is_over = [], False, False
        self.probes = 0
        answer = self.site.answer_probe

        def maybe(packet):
            if self.is_over:
                raise TimeoutError
            is_probe = network_source(packet) in ("10.255.1.1", "fd00:ff::1")
            self.probes += is_probe
            return is_probe if self.is_mute and is_probe else answer(packet)

        self.site.answer_probe = maybe
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.thread.start()

    def _run(self):
        while not self.is_over:
            try:
                self.packets.append(self.site.receive())
            except TimeoutError:
                continue
            except OSError:
                return

    def payloads(self):
        return [bytes(p[28:]) if p[0] >> 4 == 4 else bytes(p[48:]) for p in list(self.packets)]

    def end(self):
        self.is_over = True
        self.thread.join()


def network_source(packet):
    if packet[0] >> 4 == 4:
        return socket.inet_ntop(socket.AF_INET, packet[12:16])
    return socket.inet_ntop(socket.AF_INET6, packet[8:24])


@pytest.fixture
def sites(wan):
    pair = Answering(wan, "berlin"), Answering(wan, "paris")
    yield pair
    for each in pair:
        each.end()


def tunnel(wan, name):
    return next(t for t in wan.control.tunnels(None) if t.id == f"site:{name}")


def test_traffic_of_a_silent_site_moves_to_the_next_route_and_new_flows_come_back(wan, sites):
    berlin, paris = sites
    client = wan.client()
    here = client.addresses[4]
    until(lambda: tunnel(wan, "berlin").health == tunnel(wan, "paris").health == "healthy")
    until(lambda: tunnel(wan, "berlin").probes_answered > 3 and tunnel(wan, "paris").probes_answered > 3)
    assert tunnel(wan, "berlin").rtt_ms > 0
    client.send(datagram(here, "10.9.0.5", b"first"), datagram(here, "10.1.0.5", b"only way"))
    until(lambda: {b"first", b"only way"} <= {*berlin.payloads()})
    berlin.is_mute = True
    until(lambda: tunnel(wan, "berlin").health == "down")
    routes = {(r.prefix, r.via): r for r in wan.control.routes("acme")}
    assert routes["10.9.0.0/24", "site:berlin"].cost == 1_000_100
    client.send(datagram(here, "10.9.0.5", b"second"), datagram(here, "10.1.0.5", b"still the only way"))
    until(lambda: b"second" in paris.payloads() and b"still the only way" in berlin.payloads())
    assert b"second" not in berlin.payloads()
    (flow,) = [f for f in wan.control.flows([("tenant", "acme")]).items if f.dst == "10.9.0.5"]
    assert (flow.offramp_tunnel, flow.total.client_packets) == ("site:paris", 2)
    paris.site.send(datagram("10.9.0.5", here, b"answer", 4001, 4000))
    assert bytes(client.packet()[UDP].payload) == b"answer"
    text = wan.control.metrics()
    assert 'oxy_tunnel_health{tenant="acme",tunnel="site:berlin"} 2' in text
    assert 'oxy_tunnel_health{tenant="acme",tunnel="site:paris"} 0' in text
    berlin.is_mute = False
    until(lambda: tunnel(wan, "berlin").health == "degraded")
    assert 'oxy_tunnel_probes_total{tenant="acme",tunnel="site:berlin",result="lost"}' in wan.control.metrics()


@pytest.mark.parametrize("version", [4, 6])
def test_probes_of_the_other_side_are_answered(wan, version):
    site = wan.site("berlin" if version == 4 else "paris")
    probe, own = {4: ("10.255.1.2", "10.255.1.1"), 6: ("fd00:ff::2", "fd00:ff::1")}[version]
    echo = ICMP(id=9, seq=3) if version == 4 else ICMPv6EchoRequest(id=9, seq=3)
    site.answer_probe = lambda packet: False
    site.send(bytes(network(version, probe, own) / echo / Raw(b"other side")))

    def reply():
        packet = site.packet()
        is_reply = packet[ICMP].type == 0 if version == 4 else ICMPv6EchoReply in packet
        return packet if is_reply else None

    answer = until(reply)
    assert (answer.src, answer.dst) == (own, probe)
    echoed = answer[ICMP if version == 4 else ICMPv6EchoReply]
    assert (echoed.id, echoed.seq) == (9, 3)
    assert b"other side" in bytes(answer)
    stranger = bytes(network(version, "192.0.2.9" if version == 4 else "2001:db8::9", own) / echo)
    wan.counted("spoofed_source", lambda: site.send(stranger), "acme")


def routes_of(wan, *changes):
    now = [r for r in wan.control.routes("acme") if r.network == "default"]
    kept = [Route(prefix=r.prefix, via=r.via, priority=r.priority, weight=r.weight, level=r.level) for r in now]
    return RoutesChange(
        tenant="acme", routes=[r for r in kept if r.prefix not in {c.prefix for c in changes}] + [*changes]
    )


def test_replaced_route_moves_its_live_flows_and_no_others(wan, sites):
    berlin, paris = sites
    client = wan.client()
    here = client.addresses[4]
    until(lambda: all(tunnel(wan, name).probes_answered for name in ("berlin", "paris")))
    until(lambda: tunnel(wan, "berlin").health == tunnel(wan, "paris").health == "healthy")
    client.send(datagram(here, "10.9.0.5", b"a1"), datagram(here, "10.1.0.5", b"b1"), datagram(here, "10.2.0.5", b"c1"))
    until(lambda: {b"a1", b"b1"} <= {*berlin.payloads()} and b"c1" in paris.payloads())
    after = wan.control.set_routes(routes_of(wan, Route(prefix="10.9.0.0/24", via="site:paris")))
    assert [(r.via, r.cost) for r in after if r.prefix == "10.9.0.0/24"] == [("site:paris", 100)]
    client.send(datagram(here, "10.9.0.5", b"a2"), datagram(here, "10.1.0.5", b"b2"), datagram(here, "10.2.0.5", b"c2"))
    until(lambda: b"b2" in berlin.payloads() and {b"a2", b"c2"} <= {*paris.payloads()})
    assert len(wan.control.flows([("tenant", "acme")]).items) == 3
    gone = [r for r in routes_of(wan).routes if r.prefix != "10.9.0.0/24"]
    wan.control.set_routes(RoutesChange(tenant="acme", routes=gone))
    client.send(datagram(here, "10.9.0.5", b"a3"))
    error = client.packet()
    assert (error[ICMP].type, error[ICMP].code) == (3, 0)
    assert b"a3" not in berlin.payloads() + paris.payloads()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"tenant": "amce"}, "unknown tenant 'amce'; did you mean 'acme'?"),
        ({"network": "labs"}, "unknown network 'labs'; did you mean 'lab'?"),
        ({"routes": [Route(prefix="10.0.0.1/8", via="stream")]}, "not a prefix: 10.0.0.1/8 has host bits set"),
        ({"routes": [Route(prefix="10.0.0.0/8", via="site:berln")]}, "unknown site 'berln'; did you mean 'berlin'?"),
        ({"routes": [Route(prefix="10.0.0.0/8", via="site:rome")]}, "site 'rome' belongs to tenant 'globex'"),
        ({"routes": [Route(prefix="10.0.0.0/8", via="site:lab")]}, "site 'lab' is in network 'lab' of the tenant"),
    ],
)
def test_wrong_routes_are_refused_and_change_nothing(shared, change, message):
    def routes():  # what each costs meanwhile follows the health of tunnels
        return [msgspec.structs.replace(route, cost=None) for route in shared.control.routes(None)]

    before = routes()
    with pytest.raises(ControlError, match=message.replace("?", r"\?")) as caught:
        shared.control.set_routes(RoutesChange(**{"tenant": "acme", "routes": [], **change}))
    assert caught.value.status == 400
    assert routes() == before


@pytest.fixture(scope="module")
def shared():
    with wide() as stage:
        yield stage

"""A limit of bytes bounds datagrams as well: its flows share it in each direction, and what is beyond is dropped."""

from __future__ import annotations

import socket

import pytest

from proxy.errors import DropReason
from proxy.stream.metering import BURST_S, Bucket
from proxy.stream.pacing import DIVIDE_S, Pacer
from proxy.verdict import Pace, Ruling, Verdict
from tests.flows import make_flow
from tests.loops import running
from tests.stream.test_datagrams import datagram, echo_server, received
from tests.stream.test_udp_tunnel import Scene, answer, question
from tests.stream.world import world

RATE = 100_000.0


def passed(bucket, size, start, seconds):
    """The bytes that pass in that time when datagrams of `size` come without end."""
    moved, steps = 0, int(seconds * 1000)
    for step in range(steps):
        for _ in range(10):
            if bucket.has_tokens(start + step / 1000):
                bucket.take(size)
                moved += size
    return moved


@pytest.mark.parametrize("size", [100, 1_200, 65_000])
def test_a_bucket_lets_its_rate_pass_whatever_the_size_of_datagrams(size):
    bucket = Bucket(RATE, 0.0)
    assert RATE * 10 <= passed(bucket, size, 0.0, 10) <= RATE * (10 + BURST_S) + size
    bucket.rate = RATE / 2
    assert passed(bucket, size, 10.0, 10) == pytest.approx(RATE / 2 * 10, abs=size + RATE * BURST_S)


def until_refused(lets):
    """Bytes that pass at once, in datagrams of 1,000."""
    return next(1_000 * count for count in range(1_000) if not lets(1_000))


def test_flows_of_a_limit_share_its_buckets_and_new_ones_gain_nothing():
    pacer, meters = Pacer(), []
    for port in range(1, 51):
        flow = make_flow(source_port=port)
        pacer.limit(flow, (Pace(RATE, "acme"), Pace(1e9, "acme/bob")))
        meters.append(pacer.meter(flow))
    burst = RATE * BURST_S
    assert sum(until_refused(meter.allows_outbound) for meter in meters) == pytest.approx(burst, abs=0.2 * burst)
    assert sum(until_refused(meter.allows_inbound) for meter in meters) == pytest.approx(burst, abs=0.2 * burst)


def test_a_flow_without_limits_has_no_meter():
    assert Pacer().meter(make_flow()) is None


def test_datagrams_get_their_part_beside_connections():
    pacer, stream, session = Pacer(), make_flow(source_port=1), make_flow(source_port=2)
    stream.level = session.level = "stream"
    near, far = socket.socketpair()
    with near, far:
        for flow in (stream, session):
            pacer.limit(flow, (Pace(RATE, "acme"),))
        pacer.start(stream, near, far)
        meter = pacer.meter(session)
        for number, (moving, rate) in enumerate([((stream, session), RATE / 2), ((session,), RATE)]):
            for flow in moving:
                flow.client_payload += 1
            pacer.tick(number * DIVIDE_S + 1.0)
            assert [bucket.rate for bucket in (*meter._outbound, *meter._inbound)] == [rate, rate]


def test_what_is_beyond_the_limit_between_tunnels_is_dropped_both_ways():
    with running() as loop:
        scene = Scene(loop, 4)
        scene.lifecycle.admission.pacer.limit(scene.flow, (Pace(1_000.0, "acme"),))
        scene.open(question(4))
        for carrier, packet in ((scene.client, question(4, bytes(1_000))), (scene.site, answer(4, bytes(1_000)))):
            assert scene.give(carrier, packet) is None
            assert scene.give(carrier, packet) is DropReason.LIMIT_BYTES
        scene.session.end("drain")


class Limiting:
    """A policy that limits everybody."""

    def judge(self, flow):
        return Ruling(Verdict(paces=(Pace(1_000.0, "acme"),)), [])


def test_what_is_beyond_the_limit_at_a_socket_is_dropped_both_ways(monkeypatch):
    with echo_server(4) as server, world(monkeypatch) as w:
        w.lifecycle.admission.judge = Limiting()
        port, payload = server.getsockname()[1], bytes(1_000)
        assert w.give_all(datagram(port, payload), datagram(port, payload)) == [None, DropReason.LIMIT_BYTES]
        _, address = received(w, server)
        for _ in range(2):
            server.sendto(payload, address)
        w.loop.until(lambda: w.tenant.drops[DropReason.LIMIT_BYTES])
        assert (len(w.tunnel.take()), w.flow.client_payload, w.flow.origin_payload) == (1, 1_000, 1_000)

"""A limit of bytes is shared by those that move something, and set on both of their sockets."""

from __future__ import annotations

import socket
import struct
import threading
import time

import pytest

from proxy.stream.pacing import DIVIDE_S, MIN_BYTES_PER_S, SO_MAX_PACING_RATE, Pacer
from proxy.verdict import Pace
from tests.flows import make_flow


def tcp_pair():
    """Two ends of a connection, with segments as they are in networks: the first ten of them are not paced."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 1_000)
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


def rate_of(sock):
    return struct.unpack("=Q", sock.getsockopt(socket.SOL_SOCKET, SO_MAX_PACING_RATE, 8))[0]


@pytest.fixture
def flows():
    """Two flows with two sockets each: `(flow, sockets)`."""
    found = [(make_flow(source_port=port), tcp_pair()) for port in (1, 2)]
    for flow, _ in found:
        flow.level = "stream"
    yield found
    for _, socks in found:
        for sock in socks:
            sock.close()


def begun(flows, *paces):
    pacer = Pacer()
    for (flow, socks), own in zip(flows, paces, strict=True):
        pacer.limit(flow, own)
        pacer.start(flow, *socks)
    return pacer


def test_flows_of_a_pool_share_its_limit_by_what_they_move(flows):
    pace = (Pace(1e6, "acme"),)
    pacer, (one, other) = begun(flows, pace, pace), flows
    assert [rate_of(sock) for _, socks in flows for sock in socks] == [1_000_000, 1_000_000, 500_000, 500_000]
    one[0].client_payload += 1  # alone
    pacer.tick(1.0)
    assert [rate_of(socks[0]) for _, socks in flows] == [1_000_000, 500_000]
    one[0].client_payload += 1
    other[0].origin_payload += 1
    pacer.tick(1.0 + DIVIDE_S)
    assert [rate_of(socks[0]) for _, socks in flows] == [500_000, 500_000]
    one[0].close("client_closed", 1)
    other[0].origin_payload += 1
    pacer.tick(1.0 + 2 * DIVIDE_S)
    assert rate_of(other[1][0]) == 1_000_000


def test_the_tightest_of_several_limits_holds_and_pools_are_apart(flows):
    begun(flows, (Pace(1e6, "acme"), Pace(2e5, "acme/bob")), (Pace(3e3, "globex"),))
    assert [rate_of(socks[0]) for _, socks in flows] == [200_000, 3_000]


def test_no_flow_starves_in_its_timers(flows):
    pace = (Pace(10.0, "acme"),)
    begun(flows, pace, pace)
    assert [rate_of(socks[0]) for _, socks in flows] == [MIN_BYTES_PER_S, MIN_BYTES_PER_S]


def test_flows_without_limits_are_left_alone(flows):
    (flow, socks), _ = flows
    pacer = Pacer()
    pacer.start(flow, *socks)
    pacer.tick(1.0)
    assert rate_of(socks[0]) > 1 << 31


def test_the_kernel_sends_no_faster(flows):
    (near, far) = flows[0][1]
    begun(flows[:1], (Pace(400_000.0, "acme"),))
    count, began = 200_000, time.monotonic()
    sender = threading.Thread(target=near.sendall, args=(bytes(count),))
    sender.start()
    while count > 0:
        count -= len(far.recv(65_536))
    sender.join()
    assert 0.3 < time.monotonic() - began < 10  # seconds: 0.5

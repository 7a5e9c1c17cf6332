"""The pump between a device and a tunnel, with socket pairs in place of both."""

from __future__ import annotations

import os
import socket

import pytest

from oxyctl.agents.client import Client
from oxyctl.agents.config import ClientConfig
from oxyctl.agents.pump import BUDGET, MAX_DATAGRAM, SINGLES, TunnelLost, download, resume, upload
from proxy.context import TunnelContext


@pytest.fixture
def pair():
    """Make connected SEQPACKET sockets, neither of which blocks."""
    made = []

    def make(room=4 << 20):
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (ours, theirs):
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, room)
        made.extend((ours, theirs))
        return ours, theirs

    yield make
    for sock in made:
        sock.close()


@pytest.fixture
def world(pair, monkeypatch):
    """A client, the far end of its device (what programs send and get), and the proxy's end of its tunnel."""
    device, programs = pair()
    monkeypatch.setattr("oxyctl.agents.client._open_device", lambda config, offload: device.fileno())
    context = TunnelContext(tenant="acme", addresses=["100.96.0.2"])
    client = Client(ClientConfig(node="pc", netns="", interface="", socket="", context=context))
    client.tunnel, proxy = pair()
    return client, programs, proxy


def fill(sock, packet):
    count = 0
    try:
        while True:
            sock.send(packet)
            count += 1
    except BlockingIOError:
        return count


def drain(sock):
    packets = []
    try:
        while packet := sock.recv(MAX_DATAGRAM + 1):
            packets.append(packet)
    except BlockingIOError:
        pass
    return packets


def test_packets_pass_unchanged_in_order(world):
    client, programs, proxy = world
    up, down = [b"E1", b"E" * MAX_DATAGRAM, b"`3"], [b"`4", b"E" * MAX_DATAGRAM]
    for packet in up:
        programs.send(packet)
    for packet in down:
        proxy.send(packet)
    assert upload(client)
    download(client)
    assert (drain(proxy), drain(programs)) == (up, down)
    assert (client.sent, client.received, client.refused) == (3, 2, 0)


def test_one_readiness_event_moves_no_more_than_its_budget(world):
    client, programs, proxy = world
    for number in range(BUDGET + 5):
        programs.send(b"E%d" % number)
        proxy.send(b"E%d" % number)
    upload(client)
    download(client)
    assert (len(drain(proxy)), len(drain(programs))) == (BUDGET, BUDGET)
    upload(client)
    assert drain(proxy) == [b"E%d" % number for number in range(BUDGET, BUDGET + 5)]


def test_a_full_tunnel_keeps_one_packet_and_loses_none(world, pair):
    client, programs, _ = world
    client.tunnel, proxy = pair(room=1)
    fill(client.tunnel, b"E" * 200)
    programs.send(b"Efirst")
    programs.send(b"Esecond")
    assert not upload(client)
    assert client.waiting == b"Efirst"
    assert not resume(client)
    assert set(drain(proxy)) == {b"E" * 200}
    assert resume(client)
    assert upload(client)
    assert drain(proxy) == [b"Efirst", b"Esecond"]
    assert client.sent == 2


def test_what_is_no_packet_is_counted_and_not_written(world):
    client, programs, proxy = world
    for datagram in (b"", b'{"ok": true}', b"E" * (MAX_DATAGRAM + 1), b"Egood"):
        proxy.send(datagram)
    download(client)
    assert drain(programs) == [b"Egood"]
    assert (client.received, client.refused) == (1, 3)


def test_a_packet_that_the_device_refuses_is_counted(world, monkeypatch):
    client, programs, proxy = world
    real = os.write

    def write(fd, data):
        if bytes(data) == b"Ebad":
            raise OSError(22, "Invalid argument")
        return real(fd, data)

    monkeypatch.setattr(os, "write", write)
    for datagram in (b"E1", b"Ebad", b"E2"):
        proxy.send(datagram)
    download(client)
    assert drain(programs) == [b"E1", b"E2"]
    assert (client.received, client.refused) == (2, 1)


def test_a_packet_longer_than_the_tunnel_takes_is_lost_alone(world, pair):
    client, programs, _ = world
    client.tunnel, proxy = pair(room=1)
    programs.send(b"E" * 60_000)
    programs.send(b"Esmall")
    upload(client)
    upload(client)
    assert drain(proxy) == [b"Esmall"]
    assert client.lost == 1


def test_the_proxys_end_is_noticed_from_both_sides(world):
    client, programs, proxy = world
    proxy.send(b"Elast")
    proxy.close()
    programs.send(b"E")
    with pytest.raises(TunnelLost):
        upload(client)
    with pytest.raises(TunnelLost, match="closed by the proxy"):
        download(client)
    assert drain(programs) == [b"Elast"]


def test_after_a_lone_packet_a_few_visits_read_once_and_nothing_is_left_behind(world):
    client, programs, proxy = world
    assert client.tunnel is not None
    for move, source, sink in ((upload, programs, proxy), (download, proxy, programs)):
        source.send(b"alone")
        move(client)
        assert drain(sink) == [b"alone"]
        for number in range(10):
            source.send(b"%d" % number)
        visits = 0
        came = []
        while len(came) < 10:
            move(client)
            visits += 1
            came += drain(sink)
        assert came == [b"%d" % number for number in range(10)]
        assert visits == SINGLES + 1

"""A tunnel with an impairment, with socket pairs in place of device and tunnel and a clock of the test's own."""

from __future__ import annotations

import socket

import pytest

from oxyctl.agents.client import Client
from oxyctl.agents.config import ClientConfig
from oxyctl.agents.impaired_tunnel import ImpairedTunnel
from oxyctl.agents.pump import TunnelLost
from oxyctl.net.impairment import Impairment
from proxy.context import TunnelContext

PACKET = b"\x45" + bytes(99)


@pytest.fixture
def pair():
    """Make connected SEQPACKET sockets, neither of which blocks."""
    made = []

    def make():
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (ours, theirs):
            sock.setblocking(False)
        made.extend((ours, theirs))
        return ours, theirs

    yield make
    for sock in made:
        sock.close()


@pytest.fixture
def client(pair, monkeypatch):
    """A client; `programs` is the far end of its device, `proxy` that of its tunnel."""
    device, programs = pair()
    monkeypatch.setattr("oxyctl.agents.client._open_device", lambda config, offload: device.fileno())
    context = TunnelContext(tenant="acme", addresses=["100.96.0.2"])
    client = Client(ClientConfig(node="pc", netns="", interface="", socket="", context=context))
    client.tunnel, proxy = pair()
    client.programs, client.proxy = programs, proxy
    return client


def test_both_directions_take_their_time(client):
    impaired = ImpairedTunnel(client, Impairment(delay_s=0.1))
    client.programs.send(PACKET)
    client.proxy.send(PACKET)
    impaired.upload(5.0)
    impaired.download(5.05)
    assert impaired.write_due(5.09) == pytest.approx(5.1)
    with pytest.raises(BlockingIOError):
        client.proxy.recv(1000)
    assert impaired.write_due(5.11) == pytest.approx(5.15)
    assert client.proxy.recv(1000) == PACKET
    assert impaired.write_due(5.16) is None
    assert client.programs.recv(1000) == PACKET
    assert (client.sent, client.received) == (1, 1)


def test_a_tunnel_that_is_down_takes_and_loses(client):
    impaired = ImpairedTunnel(client, Impairment(down=True))
    client.programs.send(PACKET)
    impaired.upload(0.0)
    assert impaired.write_due(1.0) is None
    impaired.change(Impairment())
    client.programs.send(PACKET + b"2")
    impaired.upload(2.0)
    impaired.write_due(2.0)
    assert client.proxy.recv(1000) == PACKET + b"2"


def test_control_datagrams_and_nothing_at_all_are_no_packets(client):
    impaired = ImpairedTunnel(client, Impairment(delay_s=0.1))
    client.proxy.send(b'{"ok": true}')
    client.proxy.send(PACKET)
    impaired.download(0.0)
    impaired.write_due(1.0)
    assert client.programs.recv(1000) == PACKET
    assert client.refused == 1


def test_a_proxy_that_hangs_up_is_noticed_and_what_was_on_its_way_is_counted(client):
    impaired = ImpairedTunnel(client, Impairment(delay_s=0.1))
    client.programs.send(PACKET)
    impaired.upload(0.0)
    client.proxy.close()
    with pytest.raises(TunnelLost):
        impaired.download(0.0)
    client.disconnect()
    assert impaired.write_due(1.0) is None
    assert client.lost == 1

"""Runs of datagrams over a loopback socket: what goes into one call, and how it arrives."""

from __future__ import annotations

import socket
from ipaddress import ip_address

import pytest

from oxyctl.agents.sites import sockets
from oxyctl.agents.sites.runs import MAX_BYTES, MAX_SEGMENTS, Run

LOOPBACK = {4: ip_address("127.0.0.1"), 6: ip_address("::1")}


@pytest.fixture(params=[4, 6])
def pair(request):
    """A run that is sent by one socket, and the socket that it arrives at."""
    address = LOOPBACK[request.param]
    receiver, sender = sockets.open_gue(address, 0), socket.socket(sockets.family_of(address), socket.SOCK_DGRAM)
    receiver.setblocking(True)
    receiver.settimeout(10)
    with receiver, sender:
        yield Run(sender), receiver


def add(run, text, traffic_class=0):
    run.add(b"head", memoryview(text), 4 + len(text), traffic_class)


def test_it_arrives_as_one_with_its_size_and_its_traffic_class(pair):
    run, receiver = pair
    for text in (b"one", b"two", b"x"):
        assert not run.count or run.fits(4 + len(text), 0xB8)
        add(run, text, 0xB8)
    run.send(receiver.getsockname()[:2])
    data, ancillary, _, _ = receiver.recvmsg(70_000, sockets.CMSG_SPACE)
    assert data == b"headoneheadtwoheadx"
    assert sockets.read_ancillary(ancillary) == (0xB8, 7)


def test_a_single_one_is_a_datagram_like_any_other(pair):
    run, receiver = pair
    add(run, b"alone")
    run.send(receiver.getsockname()[:2])
    data, ancillary, _, _ = receiver.recvmsg(70_000, sockets.CMSG_SPACE)
    assert (data, sockets.read_ancillary(ancillary)) == (b"headalone", (0, 0))


def test_what_does_not_fit_starts_another():
    run = Run(socket.socket())
    with run.sock:
        add(run, b"12345", 1)
        assert run.fits(9, 1)
        assert not run.fits(10, 1)  # larger
        assert not run.fits(9, 2)  # another traffic class
        add(run, b"123", 1)
        assert not run.fits(7, 1)  # behind a smaller one, which ends a run
        run.clear()
        for _ in range(MAX_SEGMENTS):
            add(run, b"1")
        assert not run.fits(5, 0)
        run.clear()
        run.add(b"", memoryview(bytes(MAX_BYTES // 2)), MAX_BYTES // 2, 0)
        assert run.fits(MAX_BYTES // 2, 0)
        run.add(b"", memoryview(bytes(MAX_BYTES // 2)), MAX_BYTES // 2, 0)
        assert not run.fits(100, 0)


@pytest.mark.parametrize("version", [4, 6])
def test_sockets_for_sending_stand_for_flows_and_do_not_fragment(version):
    opened = sockets.open_entropy(LOOPBACK[version])
    try:
        ports = {sock.getsockname()[1] for sock in opened}
        assert len(ports) == sockets.ENTROPY_SOCKETS
        assert all(49_152 <= port <= 65_535 for port in ports)
        level, option = (socket.IPPROTO_IP, 10) if version == 4 else (socket.IPPROTO_IPV6, 23)
        assert {sock.getsockopt(level, option) for sock in opened} == {sockets.PMTUDISC_DO}
    finally:
        for sock in opened:
            sock.close()

"""Checksums over a veth pair: left undone by the kernel, and finished when it is told to."""

from __future__ import annotations

import socket

import pytest

from oxyctl.net.offload import disable_checksum_offload
from proxy.wire import ip, udp
from proxy.wire.ip import IPPacket
from tests.netns import Namespace, connect, needs_root

pytestmark = [needs_root, pytest.mark.netns]


@pytest.fixture
def ends():
    """Two namespaces with a veth pair between them: `lan0` is the end of the second."""
    near, far = Namespace(), Namespace()
    connect(near, far, ["10.50.0.1/24"], ["10.50.0.2/24"])
    yield near, far
    near.close()
    far.close()


def problem(ends):
    """What is wrong with a UDP packet that the second namespace sends, as a packet socket sees it; None: nothing."""
    near, far = ends
    with near.run(socket.socket, socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as sniffer:
        sniffer.bind(("lan", 0x0800))
        sniffer.settimeout(10)
        with far.run(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) as sender:
            sender.sendto(b"odd", ("10.50.0.1", 9))
        raw = sniffer.recv(2000)
    packet = ip.parse(raw, 0, len(raw))
    assert isinstance(packet, IPPacket)
    return udp.check(raw, packet)


def test_a_veth_pair_leaves_them_undone_until_told(ends):
    assert problem(ends) is not None
    ends[1].run(disable_checksum_offload, "lan0")
    assert problem(ends) is None


def test_no_such_interface(ends):
    with pytest.raises(OSError, match="No such device"):
        ends[1].run(disable_checksum_offload, "lan9")

"""Queueing disciplines: what is sent to the kernel, read back by another implementation and by the kernel itself."""

from __future__ import annotations

import fcntl
import socket
import struct

import pytest
from pyroute2.netlink.rtnl.tcmsg import tcmsg

from oxyctl.net import netlink, shaping
from oxyctl.net.impairment import Impairment
from tests.netns import Namespace, needs_root

SIOCGIFFLAGS, SIOCGIFMTU = 0x8913, 0x8921


def decoded(request):
    """The message as pyroute2 understands it: its kind, and its options."""
    header = len(request.body) + 16
    message = tcmsg(header.to_bytes(4, "little") + request.kind.to_bytes(2, "little") + bytes(10) + request.body)
    message.decode()
    return message.get_attr("TCA_KIND"), message.get_attr("TCA_OPTIONS")


def test_netem_as_another_reads_it():
    wanted = Impairment(rate_bits=8_000_000, delay_s=0.02, jitter_s=0.005, loss=0.25)
    kind, options = decoded(shaping.set_netem(7, wanted))
    assert kind == "netem"
    assert options["limit"] == shaping.NETEM_PACKETS
    assert options["loss"] / 0xFFFF_FFFF == pytest.approx(0.25)
    found = dict(options["attrs"])
    assert found["TCA_NETEM_RATE"]["rate"] == 1_000_000


def test_tbf_as_another_reads_it():
    kind, options = decoded(shaping.set_tbf(7, 8_000_000))
    assert kind == "tbf"
    parameters = options.get_attr("TCA_TBF_PARMS")
    assert parameters["rate"] == 1_000_000
    assert parameters["limit"] == 160_000


def interface(request):
    """What an ioctl about the loopback answers (netdevice(7))."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        answer = fcntl.ioctl(sock, request, struct.pack("16s24x", b"lo"))
    return struct.unpack_from("I" if request == SIOCGIFMTU else "H", answer, 16)[0]


@needs_root
def test_the_kernel_says_what_it_has_and_keeps_nothing_of_the_trial():
    inside = Namespace()
    try:
        inside.run(netlink.run, [netlink.set_link(netlink.LOOPBACK_INDEX)])
        found = inside.run(shaping.disciplines)
        assert found <= {"tbf", "netem"}
        if "tbf" in found:
            with pytest.raises(OSError) as caught:  # noqa: PT011  # by its number, below
                inside.run(netlink.run, [shaping.clear_qdisc(netlink.LOOPBACK_INDEX)])
            assert caught.value.errno in (2, 22)
            inside.run(netlink.run, [shaping.set_tbf(netlink.LOOPBACK_INDEX, rate) for rate in (10**6, 10**11)])
            inside.run(netlink.run, [shaping.clear_qdisc(netlink.LOOPBACK_INDEX)])
    finally:
        inside.close()


@needs_root
def test_a_switch_and_an_mtu():
    inside = Namespace()
    try:
        index = netlink.LOOPBACK_INDEX
        inside.run(netlink.run, [shaping.set_mtu(index, 9000), shaping.set_up(index, up=True)])
        assert inside.run(interface, SIOCGIFMTU) == 9000
        assert inside.run(interface, SIOCGIFFLAGS) & 1
        inside.run(netlink.run, [shaping.set_up(index, up=False)])
        assert not inside.run(interface, SIOCGIFFLAGS) & 1
        with pytest.raises(netlink.NetlinkError, match="removal of interface 99"):
            inside.run(netlink.run, [shaping.remove_link(99)])
    finally:
        inside.close()

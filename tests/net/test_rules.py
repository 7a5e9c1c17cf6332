"""Policy routing in a namespace of the test's own: whose packets a table decides about, and in which order."""

from __future__ import annotations

import ipaddress
import os
import select
import socket
import time

import pytest

from oxyctl.net import netlink, rules, shaping
from oxyctl.net.persistent import new_tun
from proxy.device.tun import open_tun
from tests.net.test_netlink import in_new_namespace, ip, needs_ip, needs_root

EVERYTHING = ipaddress.ip_network("0.0.0.0/0")


@pytest.mark.netns
@needs_root
@needs_ip
def test_rules_come_before_own_addresses_when_they_are_first():
    def scenario():
        rules.move_local_rule()
        rules.move_local_rule()
        requests = rules.from_interface("gre1", 1001, is_first=True) + rules.from_interface("eth1", 100, is_first=False)
        netlink.run(requests)
        return ip("rule"), ip("-6", "rule")

    for found in in_new_namespace(scenario):
        order = [(rule.get("iif"), str(rule["table"])) for rule in found]
        assert order[:4] == [("gre1", "1001"), (None, "local"), ("eth1", "100"), (None, "main")]


@pytest.mark.netns
@needs_root
@needs_ip
def test_a_table_without_its_device_refuses_instead_of_letting_another_decide():
    def scenario():
        new_tun("tun1", 1003)
        requests = [netlink.set_link(1003), netlink.add_route(EVERYTHING, 1003, metric=4096, table=1001)]
        netlink.run([*requests, netlink.add_unreachable_route(EVERYTHING, 4097, 1001)])
        with_device = ip("route", "show", "table", "1001")
        netlink.run([shaping.remove_link(1003)])
        return with_device, ip("route", "show", "table", "1001")

    with_device, without = in_new_namespace(scenario)
    assert [route.get("dev") for route in with_device] == ["tun1", None]
    assert [(route.get("type"), route.get("dev")) for route in without] == [("unreachable", None)]


@pytest.mark.netns
@needs_root
def test_a_persistent_tun_device_stays_and_is_found_by_name():
    def scenario():
        new_tun("wan0", 100)
        netlink.run([netlink.set_link(100, mtu=1400), netlink.add_address(100, ipaddress.ip_interface("10.9.0.2/30"))])
        tun = open_tun("wan0", offload=False)
        packet, deadline = b"", time.monotonic() + 10
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            # the kernel opens the queue a moment after somebody has attached, and has router solicitations of its own
            while not packet.endswith(b"through the device") and time.monotonic() < deadline:
                sock.sendto(b"through the device", ("10.9.0.1", 7))
                while select.select([tun], [], [], 0.05)[0] and not packet.endswith(b"through the device"):
                    packet = os.read(tun, 2000)
        os.close(tun)
        return socket.if_nametoindex("wan0"), packet

    index, packet = in_new_namespace(scenario)
    assert index == 100
    assert packet.endswith(b"through the device")

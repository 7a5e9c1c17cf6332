"""rtnetlink requests: their bytes, and what the kernel makes of them in a namespace of the test's own."""

from __future__ import annotations

import ipaddress
import json
import os
import shutil
import subprocess
import threading

import pytest

from oxyctl.net import netlink
from proxy.device.namespaces import CLONE_NEWNET, current_network, unshare

interface, network = ipaddress.ip_interface, ipaddress.ip_network
VETH = netlink.Veth("veth0", 10_000, 1000, "eth0", 10, bytes.fromhex("020000000001"))

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces without a user namespace")
needs_ip = pytest.mark.skipif(shutil.which("ip") is None, reason="`ip` tells what the kernel made")


def in_new_namespace(function):
    """What `function` returns, called by a thread in a network namespace of its own."""
    outcome = []

    def call():
        try:
            unshare(CLONE_NEWNET)
            outcome.append((function(), None))
        except BaseException as error:
            outcome.append((None, error))

    thread = threading.Thread(target=call)
    thread.start()
    thread.join()
    [(result, error)] = outcome
    if error is not None:
        raise error
    return result


def ip(*arguments):
    return json.loads(subprocess.run(["ip", "-j", *arguments], capture_output=True, check=True).stdout or "[]")


def test_a_request_is_what_pyroute2_would_send():
    messages = pytest.importorskip("pyroute2.netlink.rtnl.ifaddrmsg")
    request = netlink.add_address(7, interface("10.0.0.1/24"))
    size = 16 + len(request.body)
    message = messages.ifaddrmsg(netlink._header.pack(size, request.kind, 0, 0, 0) + request.body)
    message.decode()
    assert (message["family"], message["prefixlen"], message["index"]) == (2, 24, 7)
    assert message.get_attr("IFA_LOCAL") == message.get_attr("IFA_ADDRESS") == "10.0.0.1"


@pytest.mark.netns
@needs_root
@needs_ip
def test_links_addresses_and_routes():
    def scenario():
        far = []
        thread = threading.Thread(target=lambda: (unshare(CLONE_NEWNET), far.append(current_network())))
        thread.start()
        thread.join()
        netlink.run([netlink.set_link(1), netlink.new_bridge("br0", 1000), netlink.new_veth(VETH, far[0])])
        netlink.run(
            [
                netlink.add_address(1000, interface("10.0.0.1/24")),
                netlink.add_address(1000, interface("fd00::1/64")),
                netlink.add_route(network("0.0.0.0/0"), 1000),
                netlink.add_route(network("10.9.0.0/16"), 1000, "10.0.0.7"),
                netlink.add_route(network("fd09::/32"), 1000, "fd00::7"),
                netlink.set_link(1000, mtu=1400, queue=2000),
            ]
        )
        try:
            return ip("-d", "link"), ip("address"), ip("route"), ip("-6", "route")
        finally:
            os.close(far[0])  # and the pair with it

    links, addresses, routes, routes6 = in_new_namespace(scenario)
    by_name = {link["ifname"]: link for link in links}
    assert "UP" in by_name["lo"]["flags"]
    assert (by_name["br0"]["mtu"], by_name["br0"]["txqlen"]) == (1400, 2000)
    assert by_name["br0"]["linkinfo"]["info_data"]["mcast_snooping"] == 0
    assert (by_name["veth0"]["master"], by_name["veth0"]["link_index"]) == ("br0", 10)
    [bridge] = [each for each in addresses if each["ifname"] == "br0"]
    own = {(each["local"], each["prefixlen"], each.get("nodad", False)) for each in bridge["addr_info"]}
    assert {("10.0.0.1", 24, False), ("fd00::1", 64, True)} <= own
    assert {("default", None), ("10.9.0.0/16", "10.0.0.7")} <= {(each["dst"], each.get("gateway")) for each in routes}
    assert ("fd09::/32", "fd00::7") in {(each["dst"], each.get("gateway")) for each in routes6}


@pytest.mark.netns
@needs_root
def test_the_first_refusal_is_told_with_the_kernels_reason():
    def scenario():
        requests = [
            netlink.new_bridge("br0", 1000),
            netlink.add_route(network("10.9.0.0/16"), 1000, "10.0.0.7"),
            netlink.new_bridge("br0", 1000),
        ]
        with pytest.raises(netlink.NetlinkError) as caught:
            netlink.run(requests)
        return str(caught.value)

    assert in_new_namespace(scenario).endswith("route 10.9.0.0/16: Nexthop has invalid gateway")


@pytest.mark.netns
@needs_root
def test_more_requests_than_one_batch():
    def scenario():
        addresses = [interface(f"10.{number >> 8}.{number & 255}.1/32") for number in range(3 * netlink.BATCH + 1)]
        netlink.run([netlink.add_address(1, address) for address in addresses])
        return len(ip("-4", "address", "show", "dev", "lo")[0]["addr_info"])

    assert in_new_namespace(scenario) == 3 * netlink.BATCH + 1


@pytest.mark.parametrize(
    "answer",
    [b"", b"\0" * 15, b"\x10\0\0\0\x63\0" + bytes(10), b"\x24\0\0\0\2\0\0\0\x07\0\0\0" + bytes(24)],
    ids=["nothing", "cut short", "another type", "another request"],
)
def test_an_answer_that_is_not_known_is_one_clear_error(answer):
    with pytest.raises(netlink.NetlinkError, match=r"^rtnetlink (gave an unknown answer|answered with \d+ bytes)"):
        netlink._read_answer(answer, [netlink.set_link(1)])

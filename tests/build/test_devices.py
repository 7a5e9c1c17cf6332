"""Devices and rules of a plan, made in a namespace of the test's own."""

from __future__ import annotations

import pytest

from oxyctl.build.devices import make_devices
from oxyctl.plan.steps import Device, Rule
from tests.net.test_netlink import in_new_namespace, ip, needs_ip, needs_root

pytestmark = [pytest.mark.netns, needs_root, needs_ip]
TUN = {"node": "berlin", "name": "wan0", "index": 100, "kind": "tun", "tables": [254, 100]}


def made(device, rules=()):
    """Addresses, and the routes of the main table and of the device's own, in both families."""

    def scenario():
        make_devices([device], rules)
        tables = [ip(family, "route", "show", "table", table) for table in ("main", "100") for family in ("-4", "-6")]
        return ip("address", "show", "wan0"), [[(each["dst"], each.get("dev")) for each in table] for table in tables]

    return in_new_namespace(scenario)


def test_a_tun_device_takes_what_has_no_better_way():
    [shown], routes = made(Device(**TUN, mtu=1472, addresses=["10.255.1.2/30", "fd00:255:1::2/64"]))
    assert (shown["ifindex"], shown["mtu"], shown["txqlen"]) == (100, 1472, 2000)
    own = {(each["local"], each["prefixlen"]) for each in shown["addr_info"]}
    assert own >= {("10.255.1.2", 30), ("fd00:255:1::2", 64)}
    assert all(("default", "wan0") in table for table in routes)


def test_below_ipv6s_smallest_mtu_there_is_no_ipv6_and_no_way_around():
    _, routes = made(Device(**TUN, mtu=1000, addresses=["10.255.1.2/30"]))
    main4, main6, own4, own6 = routes
    assert ("default", "wan0") in main4
    assert ("default", "wan0") in own4
    assert main6 == []
    assert [dst for dst, _ in own6] == ["default"]
    assert ("default", "wan0") not in own6


def test_rules_that_come_first_move_own_addresses_behind_them():
    def scenario():
        make_devices([Device(**TUN, mtu=1472)], [Rule(node="edge", interface="wan0", table=100, is_first=True)])
        return ip("rule")

    rules = [(rule.get("iif"), rule["table"]) for rule in in_new_namespace(scenario)]
    assert rules[:2] == [("wan0", "100"), (None, "local")]

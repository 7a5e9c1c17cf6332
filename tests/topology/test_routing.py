"""Which way each node sends what is not for its own networks, and the routes that are refused."""

from __future__ import annotations

import pytest

from oxyctl.topology.addresses import assign
from oxyctl.topology.file import loads
from oxyctl.topology.routing import find_routes
from proxy.settings import DocumentError

CHAIN = """
networks:
  front: {subnets: [10.1.0.0/24, "fd01::/64"]}
  middle: {subnets: [10.2.0.0/24, "fd02::/64"]}
  back: {subnets: [10.3.0.0/24]}
nodes:
  edge: {kind: proxy, networks: [front], tenants: {acme: {}}}
  r1: {kind: router, networks: [front, middle]}
  r2: {kind: router, networks: [middle, back]}
  web: {kind: process, networks: [back], command: [x]}
"""
RING = """
networks:
  a: {subnets: [10.1.0.0/24]}
  b: {subnets: [10.2.0.0/24]}
  c: {subnets: [10.3.0.0/24]}
  d: {subnets: [10.4.0.0/24]}
nodes:
  r1: {kind: router, networks: [a, b]}
  r2: {kind: router, networks: [b, c]}
  r3: {kind: router, networks: [c, a]}
  r4: {kind: router, networks: [c, d]}
  host: {kind: process, networks: [a], command: [x]}
"""


def routes(text, node):
    """As `ip route` would show them, without metrics."""
    lab = loads(text)
    return {str(hop.to): f"{hop.via} {hop.network}" for hop in find_routes(lab, assign(lab))[node]}


def test_a_host_sends_everything_to_the_only_router_in_each_family_that_it_speaks():
    assert routes(CHAIN, "edge") == {"0.0.0.0/0": "10.1.0.2 front", "::/0": "fd01::2 front"}
    assert routes(CHAIN, "web") == {"0.0.0.0/0": "10.3.0.1 back"}


def test_a_router_knows_what_is_behind_the_others_and_has_no_default():
    assert routes(CHAIN, "r1") == {"10.3.0.0/24": "10.2.0.2 middle"}
    assert routes(CHAIN, "r2") == {"10.1.0.0/24": "10.2.0.1 middle", "fd01::/64": "fd02::1 middle"}


def test_a_ring_of_routers_is_legal_and_the_ways_are_the_shortest():
    assert routes(RING, "r1") == {"10.3.0.0/24": "10.1.0.2 a", "10.4.0.0/24": "10.1.0.2 a"}
    assert routes(RING, "r4") == {"10.2.0.0/24": "10.3.0.1 c", "10.1.0.0/24": "10.3.0.2 c"}


def test_a_host_with_two_routers_has_a_route_to_each_network_and_no_default():
    assert routes(RING, "host") == {
        "10.2.0.0/24": "10.1.0.1 a",
        "10.3.0.0/24": "10.1.0.2 a",
        "10.4.0.0/24": "10.1.0.2 a",
    }


@pytest.mark.parametrize(
    ("gateway", "expected"),
    [
        ("r3", {"0.0.0.0/0": "10.1.0.2 a"}),
        ("10.1.0.77", {"0.0.0.0/0": "10.1.0.77 a"}),
        ("false", {}),
        ("host", {"10.2.0.0/24": "10.1.0.1 a", "10.3.0.0/24": "10.1.0.2 a", "10.4.0.0/24": "10.1.0.2 a"}),
        ("10.1.0.3", {}),  # its own address
    ],
)
def test_the_gateway_of_a_network_decides_for_its_hosts(gateway, expected):
    text = RING.replace("a: {subnets: [10.1.0.0/24]}", f"a: {{subnets: [10.1.0.0/24], gateway: {gateway}}}")
    assert routes(text, "host") == expected


def test_what_a_node_says_comes_first():
    said = "routes: [{to: default, via: r3}, {to: d, via: 10.1.0.2}, {to: 10.9.0.0/16, via: r1}], command"
    made = routes(RING.replace("command", said), "host")
    assert made["0.0.0.0/0"] == "10.1.0.2 a"
    assert made["10.4.0.0/24"] == "10.1.0.2 a"
    assert made["10.9.0.0/16"] == "10.1.0.1 a"


def test_a_proxy_of_bound_tenants_decides_for_each_network_by_itself():
    text = """
networks:
  left: {subnets: [10.1.0.0/24]}
  right: {subnets: [10.1.0.0/24]}
  deep-left: {subnets: [10.2.0.0/24]}
  deep-right: {subnets: [10.2.0.0/24]}
nodes:
  edge: {kind: proxy, networks: [left, right], tenants: {acme: {network: left}, globex: {network: right}}}
  r1: {kind: router, networks: [left, deep-left]}
  r2: {kind: router, networks: [right, deep-right]}
"""
    lab = loads(text)
    hops = find_routes(lab, assign(lab))["edge"]
    assert [(str(hop.to), hop.via, hop.network) for hop in hops] == [
        ("0.0.0.0/0", "10.1.0.2", "left"),
        ("0.0.0.0/0", "10.1.0.2", "right"),
    ]
    assert len({hop.metric for hop in hops}) == 2  # the kernel takes only one of the same metric


MISTAKES = [
    # the routes of web and r1, and the message
    ("web", "[{to: 10.9.0.0/24, via: r3}]", "unknown node 'r3'; expected one of: edge, r1, r2"),
    ("web", "[{to: 10.9.0.0/24, via: r1}]", "node 'r1' is in no network of node 'web'"),
    ("web", "[{to: 10.9.0.0/24, via: web}]", "node 'web' is the node itself"),
    ("web", "[{to: 10.9.0.0/24, via: 10.1.0.1}]", "10.1.0.1 is in no network of node 'web'"),
    ("web", "[{to: 10.9.0.0/24, via: 10.3.0.2}]", "10.3.0.2 is an address of node 'web' itself"),
    ("web", "[{to: 10.9.0.1/24, via: r2}]", "not a prefix: 10.9.0.1/24 has host bits set"),
    ("web", "[{to: frnt, via: r2}]", "unknown network 'frnt'; did you mean 'front'?"),
    ("web", "[{to: 'fd09::/64', via: r2}]", "'r2' has no address of that family here"),
    ("web", "[{to: back, via: r2}]", "10.3.0.0/24 is a network of the node itself"),
    ("web", "[{to: front, via: r2}, {to: 10.1.0.0/24, via: 10.3.0.9}]", "10.1.0.0/24 already has a route"),
    ("web", "[{to: default, by: r2}]", "unknown key 'by'; expected one of: to, via"),
]


@pytest.mark.parametrize(("node", "said", "message"), MISTAKES, ids=[each[2][:40] for each in MISTAKES])
def test_a_route_that_makes_no_sense_is_told_with_its_place(node, said, message):
    text = CHAIN.replace("[back], command", f"[back], routes: {said}, command")
    with pytest.raises(DocumentError) as caught:
        loads(text)
    assert message in str(caught.value)
    line, column = str(caught.value).split(":")[1:3]
    assert line == "10"
    assert int(column) > text.splitlines()[9].index("routes")


def test_routers_that_send_everything_to_each_other_are_refused():
    text = CHAIN.replace("[front, middle]}", "[front, middle], routes: [{to: default, via: r2}]}")
    assert routes(text, "r1")["0.0.0.0/0"] == "10.2.0.2 middle"
    text = text.replace("[middle, back]}", "[middle, back], routes: [{to: default, via: r1}]}")
    with pytest.raises(DocumentError, match=r"lab.yaml:8:77: default routes form a loop: r1 -> r2 -> r1"):
        loads(text)


def test_a_longer_circle_and_one_of_a_single_prefix_are_refused():
    text = RING
    for router, following in (
        ("r1: {kind: router, ", "r2"),
        ("r2: {kind: router, ", "r3"),
        ("r3: {kind: router, ", "r1"),
    ):
        text = text.replace(router, f"{router}routes: [{{to: 10.9.0.0/16, via: {following}}}], ")
    with pytest.raises(DocumentError, match=r"routes to 10\.9\.0\.0/16 form a loop: r1 -> r2 -> r3 -> r1"):
        loads(text)
    loads(text.replace("to: 10.9.0.0/16, via: r1", "to: 10.9.0.0/16, via: r4"))  # which knows no way: lost, not round


@pytest.mark.parametrize(
    ("gateway", "message"),
    [
        ("r9", "3:57: unknown node 'r9'; expected one of: edge, r1"),
        ("r2", "3:57: node 'r2' is not in network 'front'"),
        ("10.9.0.1", "3:57: 10.9.0.1 is outside network 'front'"),
        ("true", "3:57: the gateway is a node, an address, or false"),
    ],
)
def test_a_gateway_that_makes_no_sense_is_told_with_its_place(gateway, message):
    with pytest.raises(DocumentError) as caught:
        loads(CHAIN.replace('"fd01::/64"]}', f'"fd01::/64"], gateway: {gateway}}}'))
    assert f"lab.yaml:{message}" in str(caught.value)


def test_a_host_of_one_family_has_a_gateway_in_that_family_only(plan):
    text = """
networks: {lan: {subnets: [10.1.0.0/24, "fd00:1::/64"]}, far: {subnets: [10.2.0.0/24, "fd00:2::/64"]}}
nodes:
  r1: {kind: router, networks: [lan, far]}
  old: {kind: process, command: [x], networks: {lan: [10.1.0.9]}}
  new: {kind: process, command: [x], networks: [lan]}
"""
    found = {(route.node, route.to) for route in plan(text).routes}
    assert found == {("old", "0.0.0.0/0"), ("new", "0.0.0.0/0"), ("new", "::/0")}

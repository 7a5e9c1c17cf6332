"""Automatic addresses: deterministic, around the given ones, the same number in both families."""

from __future__ import annotations

import pytest

from oxyctl.topology.addresses import SubnetFull, assign, assign_clients
from oxyctl.topology.file import Lab, Network, loads
from oxyctl.topology.nodes import ProcessNode

CLIENTS = """
nodes:
  edge: {kind: proxy, tenants: {acme: {}, zeta: {}}}
  one:  {kind: warp, proxy: edge, tenant: acme}
  two:  {kind: warp, proxy: edge, tenant: acme, addresses: [100.96.0.3]}
  six:  {kind: warp, proxy: edge, tenant: acme}
  far:  {kind: warp, proxy: edge, tenant: zeta}
"""


def nodes_in_one_network(count, *subnets, **given):
    names = [f"n{number}" for number in range(1, count + 1)]
    nodes = {name: ProcessNode(command=["x"], networks={"lan": given.get(name, [])}) for name in names}
    return Lab("test", None, {"lan": Network(subnets=list(subnets))}, nodes)


def addresses(lab):
    return {name: [str(interface) for interface in networks["lan"]] for name, networks in assign(lab).items()}


def test_the_first_free_number_of_all_subnets():
    lab = nodes_in_one_network(4, "10.0.0.0/24", "fd00::/64", n2=["10.0.0.1"], n4=["fd00::2"])
    assert addresses(lab) == {
        "n1": ["10.0.0.3/24", "fd00::3/64"],
        "n2": ["10.0.0.1/24"],
        "n3": ["10.0.0.4/24", "fd00::4/64"],
        "n4": ["fd00::2/64"],
    }
    assert addresses(lab) == addresses(lab)


def test_the_broadcast_address_is_nobodys():
    assert addresses(nodes_in_one_network(2, "10.0.0.0/30")) == {"n1": ["10.0.0.1/30"], "n2": ["10.0.0.2/30"]}
    with pytest.raises(SubnetFull) as caught:
        assign(nodes_in_one_network(3, "10.0.0.0/30"))
    assert (caught.value.node, caught.value.network) == ("n3", "lan")


def test_clients_are_numbered_by_tenant():
    assert assign_clients(loads(CLIENTS, "test")) == {
        "one": ["100.96.0.2", "fd00:96::2"],
        "two": ["100.96.0.3"],
        "six": ["100.96.0.4", "fd00:96::4"],
        "far": ["100.96.0.2", "fd00:96::2"],
    }

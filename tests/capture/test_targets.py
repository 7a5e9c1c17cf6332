"""Words on the command line become interfaces of nodes."""

from __future__ import annotations

import pytest

from oxyctl.capture.targets import Target, names, resolve, tenants
from oxyctl.errors import NothingMatched
from oxyctl.plan.make import make_plan
from oxyctl.topology.file import loads

LAB = """
networks:
  internet: {subnets: [10.50.0.0/24]}
  office: {subnets: [10.60.0.0/24]}
nodes:
  edge:   {kind: proxy, networks: [internet], tenants: {acme: {}, globex: {}}}
  laptop: {kind: warp, proxy: edge, tenant: acme}
  phone:  {kind: warp, proxy: edge, tenant: globex}
  web:    {kind: upstream, networks: [internet, office], services: {http: 80}}
"""


@pytest.fixture
def plan(tmp_path):
    return make_plan(loads(LAB, "quick"), tmp_path)


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["laptop"], [("laptop", None)]),
        (["web:eth1"], [("web", "eth1")]),
        (["web:office"], [("web", "eth1")]),
        (["laptop:lo"], [("laptop", "lo")]),
        (["internet"], [("edge", "eth0"), ("web", "eth0")]),
        (["all"], [("edge", None), ("laptop", None), ("phone", None), ("web", None)]),
        (["web:eth0", "web:internet"], [("web", "eth0")]),
        (["web:eth0", "web", "web:lo"], [("web", None), ("web", "lo")]),
    ],
)
def test_what_is_meant(plan, words, wanted):
    assert resolve(words, plan) == [Target(*each) for each in wanted]


@pytest.mark.parametrize("word", ["wab", "wab:eth0", "", ":", "All"])
def test_what_is_not_there_is_said_with_a_suggestion(plan, word):
    with pytest.raises(NothingMatched, match="no node and no network") as refused:
        resolve([word], plan)
    if word == "wab":
        assert "did you mean 'web'" in str(refused.value)


def test_everything_that_can_be_named_is_understood(plan):
    assert {"all", "laptop", "internet", "web:eth1", "laptop:warp0"} <= set(names(plan))
    assert all(resolve([name], plan) for name in names(plan))


def test_the_tenant_of_a_client_is_known(plan):
    assert tenants(plan) == {"laptop": "acme", "phone": "globex"}


def test_the_devices_of_tunnels_and_the_tenant_of_a_site_are_known(tmp_path):
    site = LAB + "  berlin: {kind: gre-site, tenant: acme, on: internet, hosts: {db: {}}}\n"
    made = make_plan(loads(site, "quick"), tmp_path, ("gre",))
    assert {"berlin:wan0", "edge:gre1", "edge:tun1", "berlin-lan"} <= set(names(made))
    assert resolve(["berlin-lan"], made) == [Target("berlin", "eth1"), Target("berlin-db", "eth0")]
    assert tenants(made) == {"laptop": "acme", "phone": "globex", "berlin": "acme", "berlin-db": "acme"}

"""`oxyctl routes`: the table a person reads, what programs get, and what there is to say of no routes."""

from __future__ import annotations

import json

import pytest

from proxy.control.schema import RouteInfo


@pytest.fixture
def routes(oxyctl, server, path):
    """Run `oxyctl routes ARGUMENTS` against the made-up proxy."""
    return lambda *arguments: oxyctl("routes", "--control", path, *arguments)


@pytest.fixture
def table(proxy):
    """Two sites that announce the same prefix, the preferred one down, a third that never came, and the Internet."""
    proxy.table += [
        RouteInfo(tenant="acme", prefix="0.0.0.0/0", via="stream", cost=100),
        RouteInfo(tenant="acme", prefix="10.9.0.0/24", via="site:main", priority=100, cost=1_000_100),
        RouteInfo(tenant="acme", prefix="10.9.0.0/24", via="site:gone", priority=50),
        RouteInfo(tenant="acme", prefix="10.9.0.0/24", via="site:standby", priority=200, cost=200, flows=3),
        RouteInfo(tenant="globex", network="labs", prefix="fd00:9::/64", via="clients", cost=100, weight=5),
    ]
    return proxy.table


def test_for_people_in_the_order_in_which_they_are_considered(routes, table):
    lines = [line.split() for line in routes().lines]
    assert lines[0] == ["TENANT", "NETWORK", "PREFIX", "VIA", "PRIORITY", "COST", "WEIGHT", "LEVEL", "FLOWS"]
    assert [line[3] for line in lines[1:]] == ["site:standby", "site:main", "site:gone", "stream", "clients"]
    assert lines[1] == ["acme", "default", "10.9.0.0/24", "site:standby", "200", "200", "1", "packet", "3"]
    assert lines[3][5:7] == ["not", "connected"]
    assert lines[4][7] == "stream"


def test_for_programs_of_one_tenant(routes, table):
    answer = json.loads(routes("--tenant", "globex", "--format", "json").out)
    assert (answer["kind"], [item["prefix"] for item in answer["items"]]) == ("routes", ["fd00:9::/64"])


def test_none(routes):
    assert routes().err == routes("-t", "acme").err == "no routes: every flow is lifted to a stream\n"
    assert json.loads(routes("--format", "json").out)["items"] == []


def test_a_tenant_that_there_is_not(routes, table):
    result = routes("--tenant", "acmee")
    assert (result.code, result.err) == (4, "error: the proxy has no tenant 'acmee'; did you mean 'acme'?\n")

"""Which programs serve a node, when one that ended is started again, and what shared programs hear of absent nodes."""

from __future__ import annotations

import asyncio
import json
from itertools import pairwise
from types import SimpleNamespace

import msgspec
import pytest

from oxyctl.errors import UsageError
from oxyctl.net.impairment import Impairment
from oxyctl.plan.diff import compare
from oxyctl.plan.serving import Serving, clients_of, is_cut, sites_of
from oxyctl.supervise.backoff import FIRST_S, LAST_S, STEADY_S, Backoff, is_wanted
from oxyctl.supervise.shared_programs import SharedPrograms
from oxyctl.supervise.state import LabDirectory
from oxyctl.topology.file import loads
from proxy.settings import DocumentError
from tests.topology.test_sites import WAN

ROUTED = """
networks: {one: {subnets: [10.1.0.0/24]}, two: {subnets: [10.2.0.0/24]}}
nodes:
  r1: {kind: router, networks: [one, two]}
  edge: {kind: proxy, networks: [one], tenants: {acme: {}}}
  pc: {kind: warp, proxy: edge, tenant: acme, services: {http: 80}}
"""


@pytest.fixture
def told(tmp_path):
    """What a shared program is told when it is started, with some nodes absent from it."""

    def tell(plan, program, *absent, far_ends=()):
        started = []
        processes = SimpleNamespace(directory=LabDirectory(tmp_path), programs={}, start=started.append)
        shared = SharedPrograms(processes)
        shared.absent[program].update(absent)
        shared.far_ends.update(far_ends)
        asyncio.run(shared.refresh(program, plan))
        assert [process.name for process in started] == [program]
        return json.loads((tmp_path / f"{program}.json").read_text())

    return tell


def test_programs_of_nodes(quick, plan):
    assert Serving(plan(quick)).programs == {
        "edge": ["edge"],
        "tool": ["tool"],
        "laptop": ["agents"],
        "web": ["services"],
    }
    assert Serving(plan(ROUTED)).programs["pc"] == ["agents", "services"]
    assert Serving(plan(WAN)).programs["berlin"] == ["sites"]


def test_a_node_of_the_kernel_has_nothing_to_stop(plan):
    made = plan(ROUTED)
    with pytest.raises(UsageError, match="node 'r1' \\(router\\) has no program to stop or start"):
        Serving(made).require(made.nodes[0])
    Serving(made).require(made.nodes[1])


def test_other_ends_of_a_proxys_tunnels(plan):
    made = plan(WAN)
    assert sites_of(made, "edge") == {"berlin", "lima"}
    assert clients_of(plan(ROUTED), "edge") == {"pc"}
    assert clients_of(plan(ROUTED), "r1") == set()


@pytest.mark.parametrize(("impairment", "cut"), [({}, False), ({"down": True}, True), ({"loss": 1.0}, True)])
def test_a_cut_tunnel(plan, impairment, cut):
    made = plan(WAN)
    links = [msgspec.structs.replace(link, impairment=Impairment(**impairment)) for link in made.links]
    assert is_cut(msgspec.structs.replace(made, links=links), "berlin") is cut


def test_an_absent_node_is_not_served_and_the_others_are(quick, plan, told):
    more = quick + "  db: {kind: upstream, networks: [internet], services: {http: 80}}\n"
    assert [node["name"] for node in told(plan(more), "services", "web")["nodes"]] == ["db"]
    assert [node["name"] for node in told(plan(more), "services")["nodes"]] == ["web", "db"]
    assert told(plan(quick), "agents", "laptop")["clients"] == []


def test_both_ends_of_a_stopped_sites_tunnel_are_absent_and_a_stopped_proxy_takes_none(plan, told):
    ends = {entry["node"] for entry in told(plan(WAN), "sites", "berlin", "edge")["tunnels"]}
    assert ends == {"lima"}


def test_sites_hear_that_their_proxy_was_started_again(plan, told):
    found = told(plan(WAN), "sites", far_ends=["lima"])["tunnels"]
    assert {(entry["node"], entry.get("far_end")) for entry in found} == {("berlin", None), ("lima", 1)}


@pytest.mark.parametrize(
    ("policy", "wanted"),
    [("never", {0: False, 3: False, -9: False}), ("on-failure", {0: False, 3: True, -9: True}), ("always", {0: True})],
)
def test_policies(policy, wanted):
    assert {code: is_wanted(policy, code) for code in wanted} == wanted


def test_back_off_grows_to_a_limit_and_begins_again_after_a_steady_run():
    backoff = Backoff()
    pauses = [backoff.next_s(0.0) for _ in range(20)]
    assert pauses[0] == FIRST_S
    assert all(earlier < later or later == LAST_S for earlier, later in pairwise(pauses))
    assert pauses[-1] == LAST_S
    assert backoff.next_s(STEADY_S) == FIRST_S


def test_a_policy_is_changed_without_touching_the_node(quick, plan):
    diff = compare(plan(quick), plan(quick.replace("env: {COLOUR: blue}", "env: {COLOUR: blue}, restart: always")))
    assert [(c.action, c.what, c.name, c.detail) for c in diff.changes] == [
        ("change", "node", "tool", "restart: never -> always")
    ]
    assert (diff.removed, diff.added) == (frozenset(), frozenset())


def test_a_policy_is_one_of_three_and_none_for_a_router():
    with pytest.raises(DocumentError, match="a router has no program to restart"):
        loads(ROUTED.replace("router, ", "router, restart: always, "))
    with pytest.raises(DocumentError, match="unknown value 'on-fail'; did you mean 'on-failure'"):
        loads(ROUTED.replace("proxy, networks", "proxy, restart: on-fail, networks"))

"""Two plans compared: what goes, comes and changes, without a kernel."""

from __future__ import annotations

import pytest

from oxyctl.errors import NothingMatched, UsageError
from oxyctl.net.impairment import ImpairmentSettings
from oxyctl.plan.diff import compare, is_same, renumber
from oxyctl.plan.make import make_plan
from oxyctl.supervise.changes import impaired, matching_links
from oxyctl.supervise.requests import Impair
from oxyctl.topology.file import loads

MORE = "  late: {kind: process, networks: [internet], command: [x]}\n"


def lines(diff):
    return [f"{c.action} {c.what} {c.name}" for c in diff.changes]


def test_the_same_file_changes_nothing(quick, plan):
    assert compare(plan(quick), plan(quick)).is_empty
    assert is_same(plan(quick), plan(quick + "\n# a comment\n"))
    assert not is_same(plan(quick), plan(quick + MORE))


def test_a_node_comes_and_goes(quick, plan):
    there = compare(plan(quick), plan(quick + MORE))
    assert lines(there) == ["add node late"]
    assert not there.programs  # the resolver is told, as agents and services are
    assert (there.added, there.removed) == ({"late"}, frozenset())
    back = compare(there.wanted, plan(quick))
    assert lines(back) == ["remove node late"]
    assert (back.added, back.removed) == (frozenset(), {"late"})


def test_numbers_of_what_runs_are_kept(quick, plan):
    first = quick.replace("nodes:\n", "nodes:\n  first: {kind: process, networks: [internet, lan], command: [x]}\n")
    first = first.replace("networks:\n", "networks:\n  lan: {subnets: [10.9.0.0/24]}\n", 1)
    running = plan(quick)
    wanted = renumber(running, plan(first))
    ports = {(link.node, link.network): link.port_index for link in running.links}
    kept = {(link.node, link.network): link.port_index for link in wanted.links}
    assert ports.items() <= kept.items()
    assert len(set(kept.values())) == len(kept) == 5
    assert {b.network: b.index for b in running.bridges}.items() <= {b.network: b.index for b in wanted.bridges}.items()
    assert {link.bridge_index for link in wanted.links} == {bridge.index for bridge in wanted.bridges}


@pytest.mark.parametrize(
    ("written", "instead", "node", "detail"),
    [
        ("http: 80", "http: 8080", "web", "replaced: changed services, readiness"),
        ("COLOUR: blue", "COLOUR: red", "tool", "replaced: changed program, readiness"),
        ("alice@", "bob@", "laptop", "replaced: changed client"),
        (
            "tenants: {acme: {}}",
            "tenants: {acme: {}, zeta: {}}",
            "edge",
            "restarted, its flows end: changed files (proxy.yaml)",
        ),
        ("{COLOUR: blue}", "{COLOUR: blue}, resolver: false", "tool", "replaced: changed resolver"),
    ],
)
def test_a_node_that_would_be_another_is_replaced_and_no_other_is(quick, plan, written, instead, node, detail):
    diff = compare(plan(quick), plan(quick.replace(written, instead, 1)))
    assert lines(diff) == [f"change node {node}"]
    assert diff.changes[0].detail == detail
    assert diff.removed == diff.added == {node}
    assert not diff.programs


def test_a_link_comes_without_its_node(quick, plan):
    lan = quick.replace("networks:\n", "networks:\n  lan: {subnets: [10.9.0.0/24]}\n", 1)
    diff = compare(
        plan(quick), plan(lan.replace("networks: [internet], command", "networks: [internet, lan], command"))
    )
    assert lines(diff) == ["add network lan", "add link tool:lan"]
    assert not diff.added | diff.removed


def test_another_address_is_another_link(quick, plan):
    diff = compare(plan(quick), plan(quick.replace("[internet], services", "{internet: [10.50.0.9]}, services")))
    assert [c.detail for c in diff.changes if c.name == "web:internet"] == [
        "addresses: 10.50.0.2/24 fd00:50::2/64 -> 10.50.0.9/24"
    ]
    assert "web" not in diff.added | diff.removed


def test_only_the_frames_differ(quick, plan):
    diff = compare(plan(quick), plan(quick.replace("[internet], command", "{internet: {delay: 5ms}}, command")))
    assert [(c.name, c.detail) for c in diff.changes] == [("tool:internet", "unimpaired -> delay 5ms")]
    assert not diff.links_added
    assert [link.node for link in diff.links_changed] == ["tool"]


def test_a_tunnel_is_impaired_without_its_client_being_replaced(quick, plan):
    plain = quick.replace("user: alice", "offload: false, user: alice")
    diff = compare(plan(plain), plan(plain.replace("offload: false", "offload: false, tunnel: {loss: 1%}")))
    assert lines(diff) == ["change tunnel laptop:tunnel"]
    assert not diff.added | diff.removed


def test_a_lab_cannot_become_another(quick, tmp_path):
    one, other = (make_plan(loads(quick, name), tmp_path) for name in ("one", "other"))
    with pytest.raises(UsageError, match="'one' cannot be changed into 'other'"):
        compare(one, other)


@pytest.mark.parametrize(
    ("word", "names"),
    [
        ("web:internet", {"web:internet"}),
        ("web:eth0", {"web:internet"}),
        ("internet", {"edge:internet", "web:internet", "tool:internet"}),
        ("laptop:tunnel", {"laptop:tunnel"}),
        ("laptop:warp0", {"laptop:tunnel"}),
    ],
)
def test_a_link_has_several_names(quick, plan, word, names):
    assert matching_links(plan(quick), word) == names


def test_an_unknown_link_is_told_with_the_nearest(quick, plan):
    with pytest.raises(NothingMatched, match="no link 'web:internt'; did you mean 'web:internet'"):
        matching_links(plan(quick), "web:internt")


def test_impairing_adds_to_what_is_and_clearing_forgets_it(quick, plan):
    slow = impaired(plan(quick), Impair(link="internet", settings=ImpairmentSettings(delay="5ms")))
    assert {link.impairment.describe() for link in slow.links} == {"delay 5ms"}
    both = impaired(slow, Impair(link="web:internet", settings=ImpairmentSettings(loss="1%")))
    assert [link.impairment.describe() for link in both.links if link.node == "web"] == ["delay 5ms, loss 1%"]
    cleared = impaired(both, Impair(link="internet", clear=True))
    assert is_same(cleared, plan(quick))
    tunnel = impaired(plan(quick), Impair(link="laptop:tunnel", settings=ImpairmentSettings(down=True)))
    assert [c.detail for c in compare(plan(quick), tunnel).changes] == ["unimpaired -> down"]

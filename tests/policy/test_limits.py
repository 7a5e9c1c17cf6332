"""Limits of a rule: concurrent flows, flows in a second, each counted for whom the rule says."""

from __future__ import annotations

from dataclasses import dataclass

from proxy.policy.engine import join
from proxy.policy.language import Facts
from proxy.verdict import Pace
from tests.policy.files import NOW, compiled


@dataclass(eq=False)
class Flow:
    is_ended: bool = False


def begin(policies, flow, at=0.0, user="bob", **more):
    facts = Facts({"time.unix": NOW + at, "identity.user": user, "tenant": "acme", **more})
    return policies.rule("acme", "network", facts, flow).verdict.action


def test_flows_at_once():
    policies = compiled("rules: [{name: few, action: rate-limit, flows: 2, per: user}]")
    flows = [Flow() for _ in range(3)]
    assert [begin(policies, flow) for flow in flows] == ["allow", "allow", "deny"]
    assert begin(policies, flows[0]) == "allow"  # it is counted already
    assert begin(policies, Flow(), user="eve") == "allow"
    flows[0].is_ended = True
    assert begin(policies, flows[2], at=0.06) == "allow"
    assert begin(policies, Flow(), at=0.12) == "deny"


def test_flows_in_a_second():
    policies = compiled("rules: [{name: slow, action: rate-limit, flows_per_s: 2}]")
    assert [begin(policies, Flow(), at) for at in (0, 0, 0, 0.5, 0.6, 1.0)] == [
        "allow", "allow", "deny", "allow", "deny", "allow",
    ]  # fmt: skip


def test_what_is_over_the_rate_is_dropped_and_what_is_over_the_count_is_told():
    policies = compiled(
        "rules: [{name: slow, phase: network, action: rate-limit, flows_per_s: 1, port: 1},"
        " {name: few, action: rate-limit, flows: 1, port: 2}]"
    )
    said = []
    for port in (1, 1, 2, 2):
        facts = Facts({"time.unix": NOW, "tenant": "acme", "net.dst.port": port})
        said.append(policies.rule("acme", "network", facts, Flow()))
    assert [each.verdict.refusal for each in said] == [None, "drop", None, "reset"]
    assert said[1].decisions[0].reason == "more than 1 new flows per second"
    assert said[1].decisions[0].rule == "slow"
    assert said[3].verdict.reason == "rule few: more than 1 concurrent flows"


def test_bytes_in_a_second_are_shared_by_whom_the_rule_says_in_tcp_and_udp():
    policies = compiled(
        "rules: [{name: slow, action: rate-limit, bytes_per_s: 1000, per: user},"
        " {name: all, action: rate-limit, bytes_per_s: 5000, flows: 9}, {name: in, action: allow, ttl_s: 9}]"
    )

    def paces(**more):
        facts = Facts({"time.unix": NOW, "tenant": "acme", "identity.user": "bob", "net.protocol": "tcp", **more})
        verdict = policies.rule("acme", "network", facts, Flow()).verdict
        assert (verdict.level, verdict.ttl_s) == (None, 9)
        return verdict.paces

    assert paces() == (Pace(1000, "acme/acme/slow/bob"), Pace(5000, "acme/acme/all/acme"))
    assert paces(**{"identity.user": "eve"})[0] == Pace(1000, "acme/acme/slow/eve")
    assert paces(**{"net.protocol": "udp"}) == paces()
    assert paces(**{"net.protocol": "icmp"}) == ()


def test_a_flow_that_is_judged_again_spends_nothing():
    policies = compiled("rules: [{name: slow, action: rate-limit, flows_per_s: 1, flows: 1}]")
    facts, flow = Facts({"time.unix": NOW, "tenant": "acme"}), Flow()
    assert not policies.rule("acme", "network", facts, flow).verdict.is_denial
    assert not policies.rule("acme", "network", facts, flow, is_repeat=True).verdict.is_denial


def test_limits_go_on_in_the_next_version():
    text = "rules: [{name: few, action: rate-limit, flows: 1}]"
    policies, later = compiled(text), compiled(text + "\n# changed")
    begin(policies, Flow())
    later.inherit(policies)
    assert begin(later, Flow()) == "deny"


def test_bytes_are_limited_also_beside_rules_about_the_way_out():
    policies = compiled(
        "rules: [{name: slow, action: rate-limit, bytes_per_s: 1000}, {name: out, phase: egress, action: log}]"
    )
    facts = Facts({"time.unix": NOW, "tenant": "acme", "net.protocol": "tcp"})
    network, egress = (policies.rule("acme", phase, facts, Flow()) for phase in ("network", "egress"))
    assert join(network, egress).verdict.paces == (Pace(1000, "acme/acme/slow/acme"),)

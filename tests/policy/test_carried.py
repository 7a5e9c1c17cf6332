"""Policies in an inspector: carried as plain data, they say there what they say here."""

from __future__ import annotations

import msgspec

from proxy.inspect.inspector import Inspector
from proxy.policy.carried import CarriedPolicies, SessionJudge, carry, flow_facts
from proxy.policy.facts import FlowFacts as PolicyFacts
from proxy.session.facts import FlowFacts
from proxy.session.messages import Configure, parts
from tests.flows import make_flow
from tests.policy.files import NOW, compiled

ACME = """
lists: {uploads: {file: uploads.txt}}
rules:
- {name: wiki, phase: http, host: "*.wiki.example", src: 100.96.0.0/12, action: allow}
- {name: no-uploads, phase: http, when: http.request.method in $uploads, action: block}
- {name: banks, phase: tls, when: 'any(net.sni.domains[*] == "bank.example")', action: do-not-inspect}
- {name: web, port: 80, action: allow}
"""


class Lazy(dict):
    """Facts that are worked out when they are asked for."""

    def __missing__(self, name):
        return {"http.request.method": "PUT"}.get(name)


def carried():
    policies = compiled(ACME, globex="default: deny", lists={"uploads.txt": "PUT\nPOST\n"})
    data = msgspec.json.encode(carry(policies, ["acme", "globex"]))
    return policies, SessionJudge(msgspec.json.decode(data, type=CarriedPolicies))


def test_they_are_the_same_there():
    policies, there = carried()
    flow = msgspec.json.decode(msgspec.json.encode(flow_facts(make_flow(), NOW)))
    ruling = there.judge("acme", "http", flow, {"http.request.host": "a.wiki.example"}, NOW)
    assert (ruling.decisions[0].rule, ruling.decisions[0].version) == ("wiki", policies.policies[0].version)
    assert there.judge("acme", "http", flow, Lazy(), NOW).verdict.is_denial
    tls = there.judge("acme", "tls", flow, {"net.sni.domains": ["www.bank.example", "bank.example"]}, NOW)
    assert tls.verdict.level == "packet"
    assert there.judge("globex", "http", flow, {}, NOW) is None


def test_rules_about_the_response_are_asked_once_it_is_there():
    policies = compiled("rules: [{name: gone, phase: http, when: http.response.code == 404, action: block}]")
    there = SessionJudge(carry(policies, ["acme"]))
    assert there.judge("acme", "http", {}, {}, NOW).verdict.http.judge_response
    assert there.judge("acme", "http", {}, {"http.response.code": 404}, NOW).verdict.is_denial


def test_limits_are_counted_by_the_proxy_for_all_inspectors():
    policies = compiled("rules: [{name: calm, phase: http, flows_per_s: 1, per: user, action: rate-limit}]")
    flow = make_flow()
    for inspector, is_over in ((SessionJudge(carry(policies, ["acme"])), is_over) for is_over in (False, True)):
        limits = inspector.judge("acme", "http", flow_facts(flow, NOW), {}, NOW).limits
        assert (policies.exceeded(limits, PolicyFacts(flow, NOW)) is not None) is is_over


def test_nothing_is_carried_where_nothing_is_said_of_what_is_read():
    assert carry(compiled("default: deny"), ["acme"]) is None


def send(inspector, configuration):
    for part in parts(configuration):
        inspector.receive(part, [])


def test_an_inspector_judges_by_what_it_is_sent_last():
    policies = compiled(ACME, lists={"uploads.txt": "PUT\n"})
    inspector = Inspector(None)  # it has no sessions, and so nothing to wait for
    flow = FlowFacts(
        id="f", tenant="acme", onramp="connected", tunnel="t", src="100.96.0.2", src_port=1, dst="10.0.0.1",
        dst_port=80,
        policy_facts=flow_facts(make_flow(), NOW),
    )  # fmt: skip
    request = {"http.request.method": "PUT", "http.request.host": "a.test"}
    assert inspector.judge("http", flow, request) is None
    send(inspector, Configure({}, policies=carry(policies, ["acme"])))
    assert inspector.judge("http", flow, request).decisions[0].rule == "no-uploads"
    send(inspector, Configure({}))
    assert inspector.judge("http", flow, request) is None

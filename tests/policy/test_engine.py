"""Which rule decides: order, phases, defaults, tenants, modifiers; and that the index changes nothing but the speed."""

from __future__ import annotations

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from proxy.policy.facts import imagine
from proxy.policy.load import action_of, compile_policies, decided_by
from proxy.policy.model import FlowText
from proxy.policy.table import MIN_RULES
from proxy.settings import DocumentError
from tests.policy.files import NOW, Text, Texts, compiled

FLOW = {"user": "bob@acme.example", "groups": ["staff"], "src": "10.1.0.2", "dst": "10.2.0.10:443"}


def outcome(policies, tenant="acme", phase="network", **flow):
    facts = imagine(FlowText(**{"tenant": tenant, **FLOW, **flow}), phase, NOW)
    return policies.try_out(tenant, phase, facts)


def decided(policies, **flow):
    found = outcome(policies, **flow)
    return None if found is None else (action_of(found), decided_by(found))


def test_the_first_rule_by_precedence_decides():
    policies = compiled("""
rules:
- {name: late, precedence: 20, action: block}
- {name: early, precedence: 10, port: 443, action: allow}
- {name: after, port: 9999, action: allow}
""")
    assert decided(policies) == ("allow", "early")
    assert decided(policies, dst="10.2.0.10:80") == ("block", "late")
    assert [rule.precedence for rule in policies.rules()] == [10, 10, 20]


def test_global_rules_come_before_a_tenants():
    policies = compiled(
        "rules: [{name: mine, action: allow}]", of_all="rules: [{name: all, precedence: 1000, port: 22, action: block}]"
    )
    assert decided(policies, dst="10.0.0.1:22") == ("block", "all")
    assert decided(policies) == ("allow", "mine")
    assert decided(policies, tenant="globex", dst="10.0.0.1:22") == ("block", "all")
    assert decided(policies, tenant="globex") == ("allow", "default")


@pytest.mark.parametrize(
    ("of_all", "acme", "expected"),
    [
        ("default: deny", "default: allow", "block"),  # who denies is right
        ("default: allow", "default: deny", "block"),
        ("default: allow", "rules: []", "allow"),
        ("rules: []", "default: deny", "block"),
    ],
)
def test_the_default_that_denies_is_right(of_all, acme, expected):
    assert decided(compiled(acme, of_all=of_all)) == (expected, "default")


def test_a_tenant_without_rules_is_not_judged():
    policies = compiled("default: deny")
    assert decided(policies, tenant="globex") is None
    assert policies.has("acme", "network")
    assert not policies.has("globex", "network")
    assert not policies.has("acme", "http")


def test_every_decision_names_phase_policy_rule_version_and_reason():
    policies = compiled(
        "name: office\ndefault: deny\nrules: [{name: no-ssh, port: 22, action: block, reason: not here}]"
    )
    (said,) = outcome(policies, dst="10.0.0.1:22").ruling.decisions
    version = policies.policies[0].version
    assert (said.stage, said.policy, said.rule, said.version, said.action, said.reason) == (
        "network", "office", "no-ssh", version, "block", "not here",
    )  # fmt: skip
    (said,) = outcome(policies).ruling.decisions
    assert (said.policy, said.rule, said.version, said.action, said.reason) == (
        "office", "default", version, "block", "no rule decided",
    )  # fmt: skip


def test_modifiers_are_heard_on_the_way_and_the_first_word_on_each_matter_holds():
    policies = compiled("""
default: deny
rules:
- {name: shadow, action: audit, port: 443}
- {name: read, action: inspect, level: tls}
- {name: read-more, action: inspect, level: http}
- {name: out, action: route, offramp: "site:berlin"}
- {name: web, action: allow, port: 443}
- {name: never, action: block}
""")
    ruling = outcome(policies).ruling
    assert (ruling.verdict.action, ruling.verdict.level, ruling.verdict.offramp) == ("allow", "tls", "site:berlin")
    assert [(each.rule, each.action, each.enforced) for each in ruling.decisions] == [
        ("shadow", "block", False),
        ("read", "inspect", True),
        ("read-more", "inspect", True),
        ("out", "route", True),
        ("web", "allow", True),
    ]
    assert outcome(policies, dst="10.2.0.10:80").ruling.verdict.action == "deny"


def test_quarantine_sends_elsewhere():
    policies = compiled("""
rules:
- name: sick
  when: any(device_posture.checks.failed[*] == "disk")
  action: quarantine
  origin: "[fd00::9]:80"
- {name: all, action: allow}
""")
    sick = outcome(policies, facts={"device_posture.checks.failed": ["disk"]}).ruling.verdict
    assert (sick.action, sick.origin) == ("allow", ("fd00::9", 80))
    assert decided(policies) == ("allow", "all")


def test_precedence_counts_across_the_files_of_a_group_but_not_across_groups():
    later = Text("second.yaml", None, "rules: [{name: early, precedence: 10, port: 443, action: allow}]")
    first = Text("first.yaml", None, "rules: [{name: late, precedence: 20, port: 443, action: block}]")
    mine = Text("acme.yaml", "acme", "rules: [{name: mine, precedence: 1, action: block}]")
    policies = compile_policies(Texts([first, later, mine]), ("acme",), NOW)
    assert decided(policies) == ("allow", "early")
    assert decided(policies, dst="10.2.0.10:80") == ("block", "mine")


def test_a_rule_names_several_lists_of_groups_and_groups_beside_them():
    policies = compiled(
        "default: deny\nlists: {ops: [ops, root], dev: [dev]}\n"
        "rules: [{name: people, group: [$ops, $dev, staff], action: allow}]"
    )
    verdicts = {each: decided(policies, groups=[each])[0] for each in ("ops", "root", "dev", "staff", "guest")}
    assert verdicts == {"ops": "allow", "root": "allow", "dev": "allow", "staff": "allow", "guest": "block"}


def test_a_list_of_hosts_is_compared_as_hosts_are():
    policies = compiled(
        "lists: {Hosts: [Wiki.Example, '*.Lab']}\nrules: [{name: hosts, host: [$Hosts, git.example], action: block}]"
    )
    hosts = ("wiki.example", "a.lab", "git.example", "lab", "a.example")
    assert [decided(policies, host=each)[0] for each in hosts] == ["block", "block", "block", "allow", "allow"]


def test_disabled_rules_and_schedules():
    policies = compiled("""
default: deny
rules:
- {name: unused, enabled: false, action: block}
- {name: week, schedule: {mon: "08:00-12:00,13:00-17:00", time_zone: Europe/Berlin}, action: allow}
""")
    assert decided(policies, time="2026-11-30T09:00") == ("allow", "week")
    assert decided(policies, time="2026-11-30T11:30") == ("block", "default")  # half past twelve in Berlin
    assert decided(policies, time="2026-11-29T09:00") == ("block", "default")


def test_lists_of_the_global_policy_are_known_to_tenants_and_can_be_replaced():
    rules = "\nrules: [{name: office, src: $office, action: allow}]"
    of_all = "lists: {office: [10.0.0.0/8]}"
    assert decided(compiled("default: deny" + rules, of_all=of_all)) == ("allow", "office")
    mine = "default: deny\nlists: {office: [192.168.0.0/16]}" + rules
    assert decided(compiled(mine, of_all=of_all)) == ("block", "default")


def test_lists_include_others_and_files():
    policies = compiled(
        "default: deny\nlists: {a: {values: [$b], file: more.txt}, b: [10.9.0.0/16, 10.1.0.2]}\n"
        "rules: [{name: a, src: $a, action: allow}]",
        lists={"more.txt": "# ours\n172.16.0.0/12 # theirs\n\n"},
    )
    assert [decided(policies, src=each)[0] for each in ("10.1.0.2", "10.9.1.1", "172.20.1.1", "10.1.0.3")] == [
        "allow", "allow", "allow", "block",
    ]  # fmt: skip


def test_the_version_is_that_of_the_content():
    text = "lists: {a: {file: a.txt}}"
    one, same, other = (compiled(text, lists={"a.txt": each}).version for each in ("1", "1", "2"))
    assert one == same != other


def test_phases_have_their_own_rules():
    policies = compiled("""
default: {http: deny, network: allow}
rules:
- {name: upload, phase: http, when: 'http.request.method in {"PUT" "POST"}', action: block}
- {name: read, phase: http, host: "*.example", action: allow}
- {name: phone, phase: tunnel, device: phone, action: block}
""")
    http = {"http.request.method": "GET", "http.request.host": "a.example"}
    assert policies.judge("acme", "http", http).verdict.action == "allow"
    assert policies.judge("acme", "http", {**http, "http.request.method": "PUT"}).decisions[0].rule == "upload"
    assert policies.judge("acme", "http", {"http.request.host": "a.test"}).decisions[0].rule == "default"
    assert policies.judge("acme", "dns", {}) is None
    assert policies.judge("acme", "tunnel", {"device.name": "phone"}).verdict.is_denial


def test_hits_are_counted_and_survive_a_new_version():
    policies = compiled("rules: [{name: a, port: 443, action: allow}, {name: b, action: allow}]")
    facts = imagine(FlowText(**FLOW), "network", NOW)
    for _ in range(3):
        policies.rule("acme", "network", facts)
    later = compiled("rules: [{name: b, action: allow}, {name: a, port: 1-443, action: allow}]")
    without = compiled("rules: [{name: b, action: allow}]")
    without.inherit(policies)
    later.inherit(without)
    assert {rule.name: rule.hits for rule in later.rules()} == {"a": 3, "b": 0}


# The index

conditions = st.sampled_from(
    [
        "net.dst.port == 443", "net.dst.port in {80 443}", "net.dst.port in {1..100 50..500}", "net.dst.port != 80",
        "net.dst.port in {400..443 8080}", "time.unix in {0..1795860000}",
        "time.unix in {1795860000..1795860001}", "net.src.ip in {10.0.0.0/8}", "net.src.ip == 10.1.0.2",
        "net.src.ip in {10.1.0.0/16 fd00::/8}", "not net.src.ip in {10.1.0.0/24}", "net.dst.ip in {0.0.0.0/0}",
        'any(identity.groups[*].name in {"staff"})', 'any(identity.groups[*].name in {"dev" "ops"})',
        'all(identity.groups[*].name == "staff")', 'identity.user == "bob"', 'net.protocol == "tcp"',
        'net.protocol in {"tcp" "udp"}', "net.dst.port == 80 or net.dst.port == 443",
        'net.dst.port == 80 or net.protocol == "udp"', "net.dst.port > 100",
        'identity.user contains "b"', 'identity.user wildcard "e*"', 'any(identity.groups[*].name contains "e")',
        'identity.user contains "b" or identity.user == "eve"', 'not identity.user contains "b"',
    ]
)  # fmt: skip
rule_texts = st.tuples(st.lists(conditions, min_size=0, max_size=3), st.sampled_from(["allow", "block", "audit"]))


@given(
    st.lists(rule_texts, min_size=1, max_size=12),
    st.sampled_from(["10.1.0.2", "10.1.9.9", "192.0.2.1", "fd00::1"]),
    st.sampled_from([22, 80, 99, 100, 443, 444, 500, 501, 8080]),
    st.sampled_from(["tcp", "udp", "icmp"]),
    st.lists(st.sampled_from(["staff", "dev", "others"]), max_size=2),
    st.sampled_from([None, "bob", "eve"]),
    st.sampled_from([0.0, 0.25, 1.5]),
)
@example([(["time.unix in {0..1795860000}"], "audit")] * MIN_RULES, "10.1.0.2", 80, "tcp", [], None, 0.25)
@example([(["time.unix in {1795860000..1795860001}"], "audit")] * MIN_RULES, "10.1.0.2", 80, "tcp", [], None, 1.5)
def test_the_index_agrees_with_evaluating_every_rule(texts, src, port, protocol, groups, user, later):
    lines = ["rules:"]
    for number, (parts, action) in enumerate(texts):
        when = " and ".join(f"({part})" for part in parts)
        lines.append(f"- {{name: r{number}, action: {action}{', when: ' + repr(when) if when else ''}}}")
    try:
        policies = compiled("\n".join(lines).replace('\\"', '"'))
    except DocumentError:  # of two conditions that cannot hold together
        assume(False)
    facts = imagine(
        FlowText(src=src, dst=f"192.0.2.9:{port}", protocol=protocol, groups=groups, user=user), "network", NOW + later
    )
    expected = []
    for rule in policies.rules():
        if rule.matches(facts):
            expected.append(rule.name)
            if rule.is_final:
                break
    found = policies.try_out("acme", "network", facts)
    assert [rule.name for rule in found.matching] == expected


@pytest.mark.slow
def test_ten_thousand_rules_are_taken_and_each_decides_about_its_own():
    places = {number: (f"10.{number >> 8}.{number & 255}", number + 1) for number in range(10_000)}
    rules = [
        f"- {{name: r{number}, action: allow, dst: {net}.0/24, port: {port}}}" for number, (net, port) in places.items()
    ]
    policies = compiled("\n".join(["default: deny", "rules:", *rules]))

    def decide(net, port):
        facts = imagine(FlowText(**(FLOW | {"dst": f"{net}.9", "port": port})), "network", NOW)
        return policies.rule("acme", "network", facts).decisions[-1].rule

    assert [decide(*places[number]) for number in (0, 4_321, 9_999)] == ["r0", "r4321", "r9999"]
    assert decide("10.0.0", 2) == "default"

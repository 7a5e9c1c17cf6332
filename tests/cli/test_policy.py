"""`oxyctl policy`: files checked and tried, decisions explained, a proxy's policies told, compared and reloaded."""

from __future__ import annotations

import json
import time

import pytest

from proxy.control.schema import TunnelInfo
from proxy.policy.judge import PolicyJudge
from proxy.policy.source import FileSource
from proxy.verdict import Decision
from tests.policy.files import NOW
from tests.records import make_record

POLICY = """
default: deny
rules:
- {name: shadow, action: audit, user: ann}
- {name: wiki, group: staff, dst: 10.2.0.10, port: 443, action: allow}
- {name: no-ssh, port: 22, action: block, refusal: drop, reason: use the bastion}
tests:
- {name: staff, flow: {groups: [staff], dst: "10.2.0.10:443"}, expect: allow, rule: wiki}
"""


@pytest.fixture
def file(tmp_path):
    """A policy file."""
    path = tmp_path / "acme.yaml"
    path.write_text(POLICY)
    return path


@pytest.fixture
def policy(oxyctl, file):
    """Run `oxyctl policy ARGUMENTS`."""
    return lambda *arguments: oxyctl("policy", *map(str, arguments))


@pytest.fixture
def live(policy, proxy, server, path, file):
    """Run `oxyctl policy ARGUMENTS` against a proxy where the file is in force."""
    proxy.policy = PolicyJudge(FileSource([], [("acme", str(file))]), ["acme", "globex"], list)
    return lambda *arguments: policy(*arguments, "--control", path)


def test_check(policy, file):
    assert policy("check", file, "-t", "acme").out.startswith(f"{file}: valid: 3 rules, 1 test passed, version ")
    answer = json.loads(policy("check", file, "--format", "json").out)
    assert (answer["kind"], answer["items"][0]["rules"]) == ("policy-check", 3)
    file.write_text("rules:\n- {name: a, action: alow}")
    result = policy("check", file)
    assert (result.code, result.err) == (
        2, f"error: {file}:2:21: rules.0.action: unknown value 'alow'; did you mean 'allow'?\n",
    )  # fmt: skip
    assert policy("check", "nowhere.yaml").err == "error: nowhere.yaml: no such file or directory\n"


def test_test(policy, file):
    assert policy("test", file).out == "ok    acme: staff: expected allow by wiki\n"
    file.write_text(POLICY.replace("port: 443", "port: 80"))
    result = policy("test", file)
    assert result.code == 3
    assert result.lines[0] == "FAIL  acme: staff: expected allow by wiki"
    assert "test 'staff' fails: expected allow by rule 'wiki', got block by default" in result.lines[1]


def test_explain(live):
    words = ("explain", "-t", "acme", "--user", "bob", "--dst", "10.2.0.10:443")
    lines = live(*words).lines
    assert lines[0].startswith("BLOCK by default: no rule matched (policy acme, version ")
    assert lines[1:4] == [
        "  the client receives: reset",
        "Rules that nearly matched:",
        '  wiki (allow): does not match: any(identity.groups[*].name in {"staff"})',
    ]
    assert live(*words, "--group", "staff").lines[0].startswith("ALLOW by rule wiki (policy acme, version ")
    ssh = live("explain", "-t", "acme", "--user", "ann", "--dst", "10.2.0.10", "--port", "22").lines
    assert ssh[0].startswith("BLOCK by rule no-ssh")
    assert ssh[1:4] == [
        "  reason: use the bastion",
        "  before that, rule shadow matched: would block, but is audit-only",
        "  the client receives: drop",
    ]


def test_explain_by_a_file_that_is_not_in_force(policy, file):
    answer = json.loads(policy("explain", "--file", file, "-t", "acme", "--port", "22", "--format", "json").out)
    assert answer["items"][0]["rule"] == "no-ssh"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["-t", "globex"], 4, "no policy applies to this flow, so it is allowed"),
        (["-t", "globexx"], 2, "the proxy has no tenant 'globexx'; did you mean 'globex'?"),
        (["-t", "acme", "--dst", "here"], 2, "dst: expected an address or address:port (found 'here')"),
        (["-t", "acme", "--fact", "net.dst.prt=1"], 2, "unknown field 'net.dst.prt'; did you mean 'net.dst.port'?"),
        (["-t", "acme", "--fact", "x"], 2, "--fact: expected FIELD=VALUE (found 'x')"),
        (["-t", "globex", "--protocol", "tpc"], 2, "unknown protocol 'tpc'; did you mean 'tcp'?"),
        (["-t", "acme", "--phase", "netwrk"], 2, "--phase: unknown phase 'netwrk'; did you mean 'network'?"),
        (["-t", "acme", "--time", "noon"], 2, "time: expected ISO 8601, such as 2026-11-28T09:30 (found 'noon')"),
    ],
)
def test_explain_nothing(live, arguments, code, said):
    result = live("explain", *arguments)
    assert (result.code, result.err) == (code, f"error: {said}\n")


def test_diff_against_what_is_in_force_and_of_two_files(live, policy, file, tmp_path):
    new = tmp_path / "new.yaml"
    new.write_text(
        POLICY.replace("port: 443", "port: [80, 443]").replace("- {name: shadow, action: audit, user: ann}\n", "")
        + "\n".join(["", "name: acme"])
    )
    rest = 'any(identity.groups[*].name in {"staff"})'
    expected = [
        f"~ wiki: when: net.dst.ip in {{10.2.0.10}} and net.dst.port in {{443}} and {rest} -> "
        f"net.dst.ip in {{10.2.0.10}} and net.dst.port in {{80 443}} and {rest}",
        '- shadow: audit: identity.user in {"ann"}',
    ]
    for result in (live("diff", new, "-t", "acme"), policy("diff", file, new)):
        assert result.lines == expected
    assert policy("diff", file, file).err == "no rules differ\n"
    file.write_text(
        POLICY.replace("- {name: shadow, action: audit, user: ann}\n", "").replace(
            "tests:", "- {name: shadow, action: audit, user: ann}\ntests:"
        )
    )
    new.write_text(POLICY)
    assert policy("diff", new, file).lines == ["^ shadow: evaluated in a different order"]


def test_reload(live, file):
    assert live("reload").out.startswith("nothing has changed: version ")
    file.write_text(POLICY + "# changed")
    assert "3 rules, 0 live flows ended" in live("reload").out
    file.write_text("rules: 1")
    result = live("reload")
    assert (result.code, result.err) == (
        2, f"error: nothing has changed: {file}:1:8: rules: expected a list (found 1)\n",
    )  # fmt: skip


def test_without_policies(policy, server, path):
    assert (
        policy("reload", "--control", path).err
        == "the proxy has no policies: name their files under `policies` in proxy.yaml\n"
    )
    assert policy("hits", "--control", path).err == "no rules are in force\n"
    assert policy("export", "--control", path).code == 4


def test_hits(live, proxy):
    from proxy.policy.facts import imagine
    from proxy.policy.model import FlowText

    proxy.policy.policies.rule("acme", "network", imagine(FlowText(tenant="acme", dst="10.0.0.1:22"), "network", NOW))
    lines = [line.split() for line in live("hits").lines]
    assert lines[0][:6] == ["RULE", "POLICY", "TENANT", "PHASE", "ACTION", "HITS"]
    assert [(line[0], line[5]) for line in lines[1:]] == [("shadow", "0"), ("wiki", "0"), ("no-ssh", "1")]
    unused = json.loads(live("hits", "--unused", "--format", "json").out)["items"]
    assert [each["name"] for each in unused] == ["shadow", "wiki"]


def test_export(live):
    assert live("export", "-t", "acme").out == POLICY
    result = live("export")
    assert (result.code, result.err) == (4, "error: no such policy is in force; these are: acme (of acme)\n")


@pytest.mark.parametrize("command", [["hits"], ["export"], ["diff", "FILE"]])
def test_a_tenant_that_nobody_knows_is_named(live, file, command):
    result = live(*(str(file) if word == "FILE" else word for word in command), "-t", "acm")
    assert (result.code, result.err) == (4, "error: the proxy has no tenant 'acm'; did you mean 'acme'?\n")


def test_against_past(live, proxy, file):
    now = {"tunnel": "t9", "start": time.time_ns(), "end": time.time_ns()}
    blocked = Decision(stage="network", policy="acme", action="block", rule="no-ssh", version="1")
    flows = [
        make_record(1, **now, user="bob", dst="10.2.0.10", dst_port=443),
        make_record(2, **now, user="eve", dst="10.2.0.10", dst_port=443),
        make_record(3, **now, user="eve", dst="10.2.0.11", dst_port=22, verdict="denied", decisions=[blocked]),
    ]
    proxy.past += flows
    proxy.open = [
        TunnelInfo(id="t", onramp="connected", tenant="acme", user="bob", groups=["staff"], mtu=1280, opened=0)
    ]
    found = json.loads(live("test", file, "-t", "acme", "--against-past", "24h", "--format", "json").out)["items"][0]
    assert (found["flows"], found["same"], found["without_groups"]) == (3, 2, 2)
    (change,) = found["changes"]
    assert (change["was"], change["now"], change["rule"], change["flows"]) == ("allow", "block", "default", 1)
    assert "eve -> 10.2.0.10:443" in change["examples"][0]
    assert live("test", file, "--against-past", "24h").code == 2

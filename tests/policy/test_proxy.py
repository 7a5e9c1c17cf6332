"""A proxy with policies: flows and tunnels are decided by them, a reload is one transaction that live flows follow."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from scapy.layers.inet import TCP

from proxy.control.client import ControlError
from proxy.errors import ProxyError
from proxy.policy.answers import Question
from proxy.policy.model import FlowText
from tests.netns import needs_root
from tests.running import ORIGIN, ROOT, Stage, staged, until

pytestmark = [pytest.mark.netns, needs_root]

CONFIGURATION = """
node: edge
tenants:
  acme: {prefixes: [100.96.0.0/12, "fd00:96::/32"], policies: [acme.yaml]}
  globex: {token: secret}
policies: [all.yaml]
onramps:
  - {kind: connected, path: ramp.sock}
"""
ALL = """
rules:
- {name: no-telnet, port: 23, action: block}
- {name: no-phones, phase: tunnel, device: phone, action: block, reason: phones are not managed}
"""
ACME = """
default: deny
rules:
- {name: shadow, action: audit, user: ann}
- {name: staff, group: staff, port: 7000-7999, action: allow}
- {name: healthy, when: 'any(device_posture.checks.passed[*] == "disk")', port: 8000, action: allow}
- {name: few, action: rate-limit, flows: 1, port: 9000}
- {name: limited, port: 9000, action: allow}
tests:
- {flow: {groups: [staff], dst: "10.50.0.10:7000"}, expect: allow, rule: staff}
"""


class PolicyStage(Stage):
    """A proxy with the policies above."""

    def start(self):
        self.write(ACME)
        Path(self.directory, "all.yaml").write_text(ALL)
        super().start()

    def write(self, text):
        Path(self.directory, "acme.yaml").write_text(text)


@pytest.fixture(scope="module")
def running():
    with staged(PolicyStage, configuration=CONFIGURATION) as stage:
        yield stage


@pytest.fixture
def stage(running):
    yield running
    running.after_test()
    running.write(ACME)
    running.control.reload()


def refused(stage, client, port):
    """The record of a connection that is refused."""
    client.send(client.segment(4, 40_000, port, "S", seq=1000))
    until(lambda: client.packet())
    (record,) = until(lambda: stage.ended(src=client.addresses[4], dst_port=port))
    return record


def test_the_rule_that_decided_is_in_the_record(stage):
    listener, client = stage.listen(port=7001), stage.client(user="bob", groups=["staff"])
    client.connect(4, 40_000, 7001)
    stage.accept(listener)
    client.close()
    (record,) = until(lambda: stage.ended(src=client.addresses[4]))
    (decision,) = record.decisions
    assert (decision.stage, decision.policy, decision.rule, decision.action) == ("network", "acme", "staff", "allow")
    assert decision.version == stage.control.policies()[1].version
    assert record.verdict == "allowed"


@pytest.mark.parametrize(
    ("fields", "port", "rule"),
    [
        ({"groups": ["staff"]}, 23, "no-telnet"),
        ({"user": "bob"}, 7001, "default"),
        ({"groups": ["staff"]}, 8000, "default"),
    ],
)
def test_what_no_rule_allows_is_refused_with_a_record(stage, fields, port, rule):
    record = refused(stage, stage.client(**fields), port)
    assert (record.close_reason, record.verdict, record.decisions[-1].rule) == ("denied", "denied", rule)
    assert record.total.origin_packets == 0


def test_a_shadow_rule_is_recorded_and_lets_pass(stage):
    listener, client = stage.listen(port=7002), stage.client(user="ann", groups=[{"name": "staff", "id": "7"}])
    client.connect(4, 40_000, 7002)
    stage.accept(listener)
    client.close()
    (record,) = until(lambda: stage.ended(src=client.addresses[4]))
    assert [(each.rule, each.action, each.enforced) for each in record.decisions] == [
        ("shadow", "block", False),
        ("staff", "allow", True),
    ]


def test_posture_decides(stage):
    listener, client = stage.listen(port=8000), stage.client(posture={"passed": ["disk"]})
    client.connect(4, 40_000, 8000)
    stage.accept(listener)


def test_flows_at_once_are_limited(stage):
    listener, client = stage.listen(port=9000), stage.client()
    client.connect(4, 40_000, 9000)
    stage.accept(listener)
    client.send(client.segment(4, 40_001, 9000, "S", seq=1000))
    (record,) = until(lambda: stage.ended(src=client.addresses[4], src_port=40_001))
    assert (record.decisions[-1].rule, record.decisions[-1].reason) == ("few", "more than 1 concurrent flows")


def test_a_tunnel_that_the_policy_refuses_hears_why(stage):
    with pytest.raises(ProxyError, match="the policy refuses it: phones are not managed"):
        stage.client(device="phone")


def test_a_tunnel_that_may_no_longer_be_is_hung_up(stage):
    staying, leaving = stage.client(device="laptop"), stage.client(device="tablet")
    stage.write(ACME.replace("rules:", "rules:\n- {name: no-tablets, phase: tunnel, device: tablet, action: block}", 1))
    stage.control.reload()
    assert leaving.sock.recv(100) == b""
    until(lambda: leaving.addresses[4] not in [each for info in stage.control.tunnels() for each in info.addresses])
    assert staying.addresses[4] in [each for info in stage.control.tunnels() for each in info.addresses]


def test_a_live_flow_that_may_no_longer_be_ends_within_a_second_of_the_reload(stage):
    listener, client = stage.listen(port=7003), stage.client(groups=["staff"])
    client.connect(4, 40_000, 7003)
    stage.accept(listener)
    stage.write(ACME.partition("tests:")[0].replace("group: staff", "group: nobody"))
    began = time.monotonic()
    reloaded = stage.control.reload()
    assert client.packet()[TCP].flags.R
    assert time.monotonic() - began < 1
    assert (reloaded.revoked, reloaded.rules) == (1, 7)
    (record,) = until(lambda: stage.ended(src=client.addresses[4]))
    assert (record.close_reason, record.verdict) == ("policy_revoked", "denied")
    assert [each.rule for each in record.decisions] == ["staff", "default"]
    assert record.decisions[0].version != record.decisions[1].version


@pytest.mark.parametrize(
    "text", ["rules: [{name: a, action: alow}]", "rules:\n- {name: a, action: allow, when: net.dst.prot == 1}", "{"]
)
def test_a_bad_file_changes_nothing(stage, text):
    before = stage.control.policies()
    stage.write(text)
    with pytest.raises(ControlError, match=r"nothing has changed: .*acme.yaml:\d+:\d+: ") as caught:
        stage.control.reload()
    assert caught.value.status == 400
    assert [each.version for each in stage.control.policies()] == [each.version for each in before]
    assert refused(stage, stage.client(), 7001).decisions[-1].rule == "default"


def test_a_failing_test_refuses_the_file(stage):
    stage.write(ACME.replace("group: staff", "group: nobody"))
    with pytest.raises(ControlError, match="test 1 fails: expected allow by rule 'staff', got block by default"):
        stage.control.reload()


def test_sighup_reloads(stage):
    stage.write(ACME + "# changed\n")
    before = stage.control.policies()[1].version
    os.kill(stage.process.pid, signal.SIGHUP)
    until(lambda: stage.control.policies()[1].version != before)


def test_a_flow_that_never_was_is_explained(stage):
    question = Question(flow=FlowText(tenant="acme", user="bob", groups=["staff"], dst=f"{ORIGIN[4]}:6999"))
    found = stage.control.explain_policy(question)
    assert (found.action, found.rule) == ("block", "default")
    assert (found.close[0].rule, found.close[0].failed) == ("staff", ["net.dst.port in {7000..7999}"])
    with pytest.raises(ControlError, match="dst: expected an address or address:port"):
        stage.control.explain_policy(Question(flow=FlowText(tenant="acme", dst="nowhere")))


def test_policies_are_told_with_their_hits(stage):
    before = {rule.name: rule.hits for policy in stage.control.policies() for rule in policy.rules}
    refused(stage, stage.client(), 23)
    found = stage.control.policies(text=True)
    assert [(each.name, each.tenant) for each in found] == [("all", None), ("acme", "acme")]
    assert found[0].text == ALL
    assert {rule.name: rule.hits for each in found for rule in each.rules} == {
        **before,
        "no-telnet": before["no-telnet"] + 1,
    }


def test_check_reads_policies_as_well(stage, tmp_path):
    (tmp_path / "all.yaml").write_text("rules:\n- {name: a, action: alow}")
    (tmp_path / "acme.yaml").write_text(ACME)
    (tmp_path / "proxy.yaml").write_text(CONFIGURATION)
    command = [sys.executable, "-m", "proxy", "--check", str(tmp_path / "proxy.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT)
    assert done.returncode == 2
    assert done.stderr == f"{tmp_path}/all.yaml:2:21: rules.0.action: unknown value 'alow'; did you mean 'allow'?\n"

"""Policies in lab files: what a proxy would refuse is told with the place in the lab file."""

from __future__ import annotations

import pytest

from oxyctl.topology.file import loads
from proxy.settings import DocumentError

LAB = """
nodes:
  edge:
    kind: proxy
    tenants:
      acme:
        policy: {{default: deny, rules: [{rule}]}}
checks:
- {check}
"""
RULE = "{name: a, action: allow}"
CHECK = "{kind: policy, tenant: acme, policy: {default: allow}}"


@pytest.mark.parametrize(
    ("rule", "check", "said"),
    [
        ("{name: a, action: alow}", CHECK, "unknown value 'alow'; did you mean 'allow'?"),
        ("{name: a, action: allow, when: net.dst.prt == 1}", CHECK, "unknown field 'net.dst.prt'"),
        (RULE, "{kind: policy, tenant: acme, policy: {default: dney}}", "unknown value 'dney'; did you mean 'deny'?"),
        (
            RULE,
            "{kind: policy, tenant: acm, policy: {}}",
            "'acm' has no policy to replace; did you mean 'acme'?",
        ),
        (RULE, "{kind: policy, policy: {}}", "the proxy has no global policy to replace"),
    ],
)
def test_a_mistake_is_told(rule, check, said):
    with pytest.raises(DocumentError, match="^lab.yaml:[0-9]+:[0-9]+: .*" + said.replace("?", "[?]")):
        loads(LAB.format(rule=rule, check=check))


def test_a_good_one():
    lab = loads(LAB.format(rule=RULE, check=CHECK))
    assert lab.nodes["edge"].tenants["acme"].policy["default"] == "deny"

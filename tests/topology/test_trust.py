"""Whose certificates a node may trust, and when the proxies of a lab need its roots."""

from __future__ import annotations

import pytest

from oxyctl.topology.file import loads
from oxyctl.topology.trust import may_inspect, tenant_of
from proxy.settings import DocumentError

SITE = """
  hq:
    kind: gre-site
    tenant: acme
    hosts: {printer: {trust: tenant-ca}}
"""


def test_clients_and_hosts_of_a_site_belong_to_a_tenant(quick):
    lab = loads(quick + SITE, "test")
    owners = {name: tenant_of(lab, name) for name in lab.nodes}
    assert owners == dict.fromkeys(("laptop", "hq", "hq-printer"), ("edge", "acme")) | dict.fromkeys(
        ("edge", "web", "tool")
    )
    assert lab.nodes["hq-printer"].trust == "tenant-ca"


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("env: {COLOUR", "trust: tenant-ca, env: {COLOUR", "8:80: node 'tool' belongs to no tenant"),
        ("user: alice", "trust: tenant, user: alice", "6:58: nodes.laptop.trust: unknown value 'tenant'"),
    ],
)
def test_a_mistake_has_its_place(quick, old, new, message):
    with pytest.raises(DocumentError) as caught:
        loads(quick.replace(old, new), "test")
    assert message in str(caught.value)


INSPECTING = "{rules: [{name: all, phase: network, action: inspect, level: http}]}"


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("{acme: {}}", "{acme: {level: http}}"),
        ("{acme: {}}", "{acme: {inspection: {minimum: TLSv1.3}}}"),
        ("{acme: {}}", f"{{acme: {{policy: {INSPECTING}}}}}"),
        ("{acme: {}}", f"{{acme: {{}}}}, policy: {INSPECTING}"),
        ("{acme: {}}", "{acme: {networks: {default: {routes: [{prefix: 0.0.0.0/0, via: stream, level: tls}]}}}}"),
        ("{acme: {}}", '{acme: {}}, settings: {hooks: "a.py:A"}'),
        ("user: alice", "trust: lab-ca, user: alice"),
    ],
)
def test_sessions_may_be_inspected_if_any_setting_says_so(quick, old, new):
    assert not may_inspect(loads(quick, "test"))
    assert may_inspect(loads(quick.replace(old, new), "test"))


def test_also_where_a_check_brings_the_policy(quick):
    policy = quick.replace("{acme: {}}", "{acme: {policy: {rules: []}}}")
    check = f"checks:\n  - {{kind: policy, tenant: acme, policy: {INSPECTING}}}\n"
    assert not may_inspect(loads(policy, "test"))
    assert may_inspect(loads(policy + check, "test"))
